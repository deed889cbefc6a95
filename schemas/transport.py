"""Which addresses leave this host: nothing goes there unencrypted unless somebody says so."""

import ipaddress


def remote_hosts(addresses: str) -> list[str]:
    """Hosts of `host:port,[v6]:port` (a `PROTOCOL://` in front is passed over) that are not this one."""
    return [host for host in _hosts(addresses) if not _is_loopback(host)]


def masked(address: str) -> str:
    """An address to be shown: what stands before an `@` may be a user and a password."""
    return f"***@{address.rpartition('@')[2]}" if "@" in address else address


def _hosts(addresses: str) -> list[str]:
    bare = [one.strip().rpartition("://")[2] for one in addresses.split(",") if one.strip()]
    return [one.rpartition(":")[0].strip("[]") or one for one in bare]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
