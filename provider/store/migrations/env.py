"""Run by alembic for each migration; `provider.store.loading.migrate` hands it the connection, in a transaction."""

from alembic import context

from provider.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
