"""The embedded default: one SQLite file, shared by the processes of one machine.

    store.py      the Store: what callers see, on the event loop
    writer.py     one thread that writes; all that waits while it is busy becomes one transaction
    reader.py     a few threads that read, each from one snapshot
    watcher.py    one thread that notices what other processes wrote, and what has become due
    tables.py     what is read and written: the contract of runwire/pubsub.py in SQL
    database.py   opening the file, its schema, and which error of SQLite means what

The file is in WAL mode, so readers and the writer do not wait for each other; writers of different processes take
turns. `synchronous` is NORMAL by default: a process that dies, even by kill -9, loses no commit. A power cut or a
crash of the machine may lose the last commits (the file stays whole), and a cursor from after them is then refused,
never misread. With `?synchronous=full` every transaction is flushed to the disk and nothing is lost.
"""

from runwire.sqlite.store import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "open_sqlite"]
