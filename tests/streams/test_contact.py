from streams.contact import Contact


def test_after_half_a_session_without_a_turn_the_coordinator_has_to_be_asked() -> None:
    now = [100.0]
    contact = Contact(lambda: now[0], 10.0)
    for now[0] in (105.0, 110.0):
        assert not contact.away()
        contact.turn()
    now[0] = 115.1
    assert contact.away()
    contact.turn()
    assert contact.away()  # a turn alone is no answer
    contact.asked(115.1)
    assert not contact.away()
    contact.unknown()
    assert contact.away()
