"""Run by Alembic, on the connection that scorer_service.results.migrate opened and will commit."""

from alembic import context

from scorer_service.results.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
