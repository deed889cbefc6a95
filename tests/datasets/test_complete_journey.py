from pathlib import Path

import numpy as np
import polars as pl
import pytest

from datasets.complete_journey import PIN_AGGREGATED_COLUMNS, PIN_CHANGED_COLUMNS, Journey
from datasets.training_rows import PinStates
from datasets.weeks import week_start_ms
from features.pin_state import AGGREGATED, CHANGED
from schemas.events import PinAggregated, PinChanged
from schemas.vectors import decode_fp16

from .tiny_journey import PRODUCTS, TinyTables, moment


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    return TinyTables().write(tmp_path_factory.mktemp("journey"))


def rows_of(frame: pl.DataFrame, pin: int) -> list[dict[str, object]]:
    """A Pin's rows without the absent fields."""
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in frame.filter(pl.col("pin_id") == pin).iter_rows(named=True)
    ]


def test_the_catalogue_states_text_in_pin_order_and_each_row_is_a_valid_event(journey: Journey) -> None:
    frame = journey.catalogue
    assert frame["pin_id"].to_list() == PRODUCTS
    assert frame["title"][-1] == "DRUG GM, National, 12 OZ"
    assert frame["title"][-2] == "KIND B, CATEGORY 1, National, 12 OZ"
    for row in frame.iter_rows(named=True):
        event = PinChanged.model_validate(row)
        assert event.content_embedding is not None
        assert np.linalg.norm(decode_fp16(event.content_embedding)) == pytest.approx(1, abs=2e-3)


def test_bids_depend_on_nothing_but_the_product(journey: Journey, tmp_path: Path) -> None:
    fewer = TinyTables(purchases=[], promotions=[(101, 300, "3", "0", 2)]).write(tmp_path)
    names = ["bid_micros", "daily_budget_micros"]
    assert journey.catalogue.select(names).equals(fewer.catalogue.select(names))
    assert (journey.catalogue["bid_micros"] > 0).all()


def test_a_placement_is_told_when_it_changes_and_cleared_when_it_ends(journey: Journey) -> None:
    told = rows_of(journey.placement_changes(1, 6), 101)
    assert [row["occurred_at_ms"] for row in told] == [week_start_ms(week) for week in (2, 4, 5, 6)]
    displays, mailers = [0] * 10, [0] * 11
    displays[3], mailers[0], mailers[1] = 2, 1, 1
    assert (told[0]["display_stores"], told[0]["mailer_stores"]) == (displays, mailers)
    assert (told[1]["display_stores"], told[1]["mailer_stores"]) == ([0] * 10, [0] * 11)
    displays[3], displays[8], mailers[1] = 0, 1, 0
    assert (told[2]["display_stores"], told[2]["mailer_stores"]) == (displays, mailers)
    assert told[3]["display_stores"] == [0] * 10


def test_placement_changes_from_a_later_week_are_those_of_the_whole_year(journey: Journey) -> None:
    whole = journey.placement_changes(1, 6).filter(pl.col("occurred_at_ms") >= week_start_ms(4))
    assert journey.placement_changes(4, 6).equals(whole)


def test_coupons_are_live_from_the_first_to_the_last_day_of_their_campaign(journey: Journey) -> None:
    told = rows_of(journey.coupon_changes(), 101)
    day_ms = 86_400_000
    tenth = week_start_ms(1) + 9 * day_ms
    assert [(row["occurred_at_ms"], row["coupons"]) for row in told] == [
        (tenth, [0, 2, 0]),
        (tenth + 3 * day_ms, [0, 0, 0]),
    ]
    assert (told[0]["interest_targeting"], told[0]["auto_targeting"]) == (True, False)
    assert told[1]["interest_targeting"] is False


def test_a_campaign_of_the_year_before_is_told_at_the_years_start(journey: Journey) -> None:
    told = rows_of(journey.coupon_changes(), 102)
    assert told[0]["occurred_at_ms"] == week_start_ms(1)
    assert told[0]["coupons"] == [1, 0, 0]
    assert told[0]["auto_targeting"] is True


def test_prices_and_visits_of_a_week_count_only_what_was_bought_before_it(journey: Journey) -> None:
    weeks = {week.week: week for week in journey.journey_events(1, 4)}
    priced = [row for row in rows_of(weeks[3].changed, 101) if "price_micros" in row]
    assert [(row["occurred_at_ms"], row["price_micros"]) for row in priced] == [(week_start_ms(3), 3_000_000)]
    visits = rows_of(weeks[3].aggregated, 101)
    assert visits == [{"pin_id": 101, "occurred_at_ms": week_start_ms(3), "offsite_visits": [0, 2, 2, 2]}]


def test_every_frame_has_the_events_columns_and_is_in_time_order(journey: Journey) -> None:
    for week in journey.journey_events(1, 5):
        assert week.changed.schema == PIN_CHANGED_COLUMNS
        assert week.aggregated.schema == PIN_AGGREGATED_COLUMNS
        for frame in (week.changed, week.aggregated):
            assert frame["occurred_at_ms"].is_sorted()
            assert (
                frame["occurred_at_ms"].is_between(week.starts_at_ms, week_start_ms(week.week + 1) - 1).all()
            )
        for row in week.changed.iter_rows(named=True):
            PinChanged.model_validate(row)
        for row in week.aggregated.iter_rows(named=True):
            PinAggregated.model_validate(row)


def test_a_fold_from_a_later_opening_gives_the_states_of_a_fold_of_the_whole_year(journey: Journey) -> None:
    states = []
    for first in (1, 4):
        folded = PinStates(journey.product_ids)
        for week in journey.journey_events(first, 5):
            folded.apply(week.changed, CHANGED)
            folded.apply(week.aggregated, AGGREGATED)
        states.append(folded.records)
    # The opening states everything at its own time; what was said must be the same.
    for name in states[0].dtype.names or ():
        if name not in (CHANGED, AGGREGATED, "occurred_at_ms", "ingested_at_ms"):
            assert states[0][name].tobytes() == states[1][name].tobytes(), name


def test_users_have_the_demographics_of_their_household(journey: Journey) -> None:
    users = journey.users()
    assert users["user_id"].tolist() == [1, 2, 3, 4]
    assert users["age_band"].tolist() == [6, 0, 2, 0]
    assert (users["segments"][0] > 0).all()
    assert (users["segments"][1] == 0).all()
    assert users["segments"][2][2] == 0


def test_purchases_without_quantity_or_of_unknown_products_are_left_out(tmp_path: Path) -> None:
    tables = TinyTables(purchases=[(1, 10, 101, moment(2, 1), 1.0), (1, 10, 999, moment(2, 1), 1.0)])
    journey = tables.write(tmp_path)
    assert journey.engagements()["pin_id"].to_list() == [101]


@pytest.mark.demo_data
def test_the_real_years_events_are_as_many_as_documented() -> None:
    journey = Journey.installed()
    assert journey.catalogue.height == 92_331
    weeks = list(journey.journey_events(1, 3))
    assert [week.changed["title"].count() for week in weeks] == [92_331, 0, 0]
    assert [week.changed["display_stores"].count() for week in weeks] == [21_952, 22_510, 22_729]
    assert journey.coupon_changes().height == 204_339
    assert journey.purchases.frame.height == 1_460_406
