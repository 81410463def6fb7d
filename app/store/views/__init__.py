"""Read models of the console: rows in, frozen dataclasses out; one module per page.

Every function is a plain read for `db.read`. What a person may see comes in as a `Scope`; nothing here is trusted later,
and nothing here changes anything.
"""
