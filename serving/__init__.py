"""The HTTP edge: answers ranking queries from whole releases, under leases."""
