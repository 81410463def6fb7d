"""All SQL: tables, statements, migrations. Plain functions over a connection, one transaction each."""
