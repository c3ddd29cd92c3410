"""Run by Alembic, on the connection that scorer_service.migrate opened and will commit."""

from alembic import context

from scorer_service.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
