from streams.contact import Contact


def test_after_half_a_session_without_a_turn_the_coordinator_has_to_be_asked() -> None:
    now, asked = [100.0], list[float]()
    contact = Contact(lambda: now[0], 10.0)

    def is_member() -> bool:
        asked.append(now[0])
        return True

    for now[0] in (105.0, 110.0):
        assert not contact.away()
        contact.turn()
        assert contact.confirm(is_member)
    assert asked == []
    now[0] = 115.1
    assert contact.away()
    contact.turn()
    assert contact.away()  # a turn alone is no answer
    assert contact.confirm(is_member)
    assert not contact.away()
    contact.unknown()
    assert contact.away()
    assert not contact.confirm(lambda: False)
    assert contact.away()
    assert asked == [115.1]


def test_a_question_that_took_half_a_session_is_asked_again() -> None:
    now, asked = [0.0], list[float]()
    contact = Contact(lambda: now[0], 10.0)
    contact.unknown()

    def is_member() -> bool:
        asked.append(now[0])
        now[0] += 6.0 if len(asked) == 1 else 1.0
        return True

    assert contact.confirm(is_member)
    assert asked == [0.0, 6.0]
