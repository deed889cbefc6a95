from streams.stalls import StallDetector, lag_of
from streams.step_source import PartitionStanding

A, B = ("t", 0), ("t", 1)
ALL = frozenset({A, B})


def test_a_partition_of_ours_with_messages_that_stands_still_is_a_stall() -> None:
    detector = StallDetector(10.0)
    for second in range(0, 10, 2):
        # The other one moves all the time.
        assert (
            detector.stalled(
                {A: PartitionStanding(0, 9, 5), B: PartitionStanding(0, 99, second)}, ALL, second
            )
            is None
        )
    why = detector.stalled({A: PartitionStanding(0, 9, 5), B: PartitionStanding(0, 99, 50)}, ALL, 11)
    assert why == "t[0] has messages and stands still"


def test_a_partition_without_messages_may_stand_still() -> None:
    detector = StallDetector(10.0)
    assert detector.stalled({A: PartitionStanding(0, 9, 9)}, ALL, 0) is None
    assert detector.stalled({A: PartitionStanding(0, 9, 9)}, ALL, 100) is None
    # A message that comes after long silence has the whole time to be worked on.
    assert detector.stalled({A: PartitionStanding(0, 10, 9)}, ALL, 101) is None
    assert detector.stalled({A: PartitionStanding(0, 10, 9)}, ALL, 109) is None
    assert detector.stalled({A: PartitionStanding(0, 10, 9)}, ALL, 111) is not None


def test_somebody_elses_partition_is_their_matter_as_long_as_the_group_moves() -> None:
    detector = StallDetector(10.0)
    for second in range(0, 40, 2):
        assert (
            detector.stalled(
                {A: PartitionStanding(0, 9, 5), B: PartitionStanding(0, 99, second)}, frozenset(), second
            )
            is None
        )


def test_a_group_in_which_nothing_moves_is_a_stall_also_for_one_that_owns_nothing() -> None:
    detector = StallDetector(10.0)
    assert detector.stalled({A: PartitionStanding(0, 9, None)}, frozenset(), 0) is None
    why = detector.stalled({A: PartitionStanding(0, 9, None)}, frozenset(), 11)
    assert why == "the group has messages in 1 partitions and none of them moves"


def test_a_topic_from_which_everything_was_deleted_has_no_messages() -> None:
    detector = StallDetector(10.0)
    for second in (0, 50):
        # Also where the group stands in what has gone: there is nothing that could move it.
        assert (
            detector.stalled({A: PartitionStanding(9, 9, None), B: PartitionStanding(9, 9, 5)}, ALL, second)
            is None
        )


def test_the_lag_is_of_messages_that_are_there() -> None:
    places = [
        PartitionStanding(0, 9, None),
        PartitionStanding(4, 9, None),
        PartitionStanding(0, 9, 5),
        PartitionStanding(7, 9, 5),
        PartitionStanding(9, 9, 5),
    ]
    assert [lag_of(one) for one in places] == [9, 5, 4, 2, 0]


def test_while_the_broker_was_away_nothing_could_move() -> None:
    detector = StallDetector(10.0)
    detector.stalled({A: PartitionStanding(0, 9, 5)}, ALL, 0)
    detector.restart()
    assert detector.stalled({A: PartitionStanding(0, 9, 5)}, ALL, 100) is None
    assert detector.stalled({A: PartitionStanding(0, 9, 5)}, ALL, 111) is not None
