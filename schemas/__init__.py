"""What crosses a process or a disk boundary: events, records, requests, logs, manifests.

Data and its (de)serialisation only. This package imports itself relatively, because the
client wheel ships a copy of it inside.
"""
