from streams.event_clock import ClockRules, EventClock

A, B = ("a", 0), ("b", 0)


def clock(*, lateness_ms: int = 0, idle_ms: int = 100, stored: int = 0) -> EventClock:
    made = EventClock(("a", "b"), ClockRules(lateness_ms, idle_ms), {}, {0: stored})
    made.tick(1_000)
    return made


def test_time_is_that_of_the_topic_which_is_furthest_behind() -> None:
    made = clock()
    made.saw(A, 500)
    before = made.watermark(0)
    made.saw(B, 300)

    assert (before, made.watermark(0)) == (0, 300)


def test_the_allowed_disorder_holds_time_back() -> None:
    made = clock(lateness_ms=50)
    made.saw(A, 500)
    made.saw(B, 300)

    assert made.watermark(0) == 250


def test_time_never_goes_back_not_even_over_a_restart() -> None:
    made = clock(stored=400)
    made.saw(A, 100)
    made.saw(B, 100)

    assert made.watermark(0) == 400


def test_a_silent_topic_is_passed_over_and_heeded_again_when_it_speaks() -> None:
    made = clock()
    made.saw(A, 500)
    made.saw(B, 300)
    made.tick(1_090)
    made.saw(A, 900)
    before = made.watermark(0)
    made.tick(1_100)
    passed_over = made.watermark(0)
    made.saw(B, 950)
    made.saw(A, 2_000)

    assert (before, passed_over, made.watermark(0)) == (300, 900, 950)


def test_when_all_are_silent_time_goes_on_at_the_pace_of_the_wall_clock() -> None:
    made = clock()
    made.saw(A, 500)
    made.saw(B, 300)

    times = []
    for now_ms in (1_050, 1_099, 1_100, 1_130):
        made.tick(now_ms)
        times.append(made.watermark(0))

    assert times == [300, 300, 500, 530]


def test_time_goes_on_in_silence_from_where_the_process_before_this_one_left_it() -> None:
    stored, times = 300, []
    for _ in range(3):
        made = EventClock(("a", "b"), ClockRules(100, 100), {A: 300, B: 280}, {0: stored})
        for now_ms in (1_000, 1_100, 1_130, 1_160):
            made.tick(now_ms)
            made.watch(0)
            stored = made.watermark(0)
        times.append(stored)

    assert times == [360, 420, 480]


def test_a_clock_that_first_looks_in_mid_silence_loses_nothing_of_it() -> None:
    made = EventClock(("a", "b"), ClockRules(0, 100), {A: 300}, {0: 400})
    made.tick(1_000)
    made.watch(0)
    made.tick(1_110)

    assert made.watermark(0) == 410


def test_each_silence_counts_from_where_time_stood_when_it_began() -> None:
    made, times = clock(), []
    made.saw(A, 500)
    for now_ms in (1_150, 1_250):
        made.tick(now_ms)
        times.append(made.watermark(0))
    made.saw(A, 510)
    made.saw(B, 505)
    for now_ms in (1_260, 1_350, 1_360):
        made.tick(now_ms)
        times.append(made.watermark(0))

    assert times == [550, 650, 650, 650, 660]


def test_without_an_idle_allowance_it_waits_for_ever() -> None:
    made = clock(idle_ms=0)
    made.saw(A, 500)
    for now_ms in range(1_000, 1_000_000, 5_000):
        made.tick(now_ms)

    assert made.watermark(0) == 0


def test_partitions_have_times_of_their_own() -> None:
    made = clock()
    for partition, time_ms in ((A, 500), (B, 500), (("a", 1), 900), (("b", 1), 800)):
        made.saw(partition, time_ms)

    assert [made.watermark(number) for number in (0, 1, 2)] == [500, 800, 0]


def test_nothing_ever_heard_is_no_time() -> None:
    made = clock()
    made.watch(3)
    made.tick(9_000)

    assert made.watermark(3) == 0
