from serving.parts import ServingParts


def test_status_is_there_while_current_cannot_be_read(parts: ServingParts) -> None:
    parts.releases.root.mkdir()
    (parts.releases.root / "CURRENT").write_bytes(b"\xff\xfe")

    parts.watcher.check()

    assert parts.status().current is None
    assert [swap["release_id"] for swap in parts.status().swaps] == ["CURRENT"]
