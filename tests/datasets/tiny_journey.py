"""A Complete Journey of a dozen products, small enough to read, in the files' own columns."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from datasets.complete_journey import Journey
from datasets.weeks import week_start_ms

PRODUCTS = list(range(100, 112))
HOUSEHOLDS = [1, 2, 3, 4]

Purchase = tuple[int, int, int, int, float]
"""(household, basket, product, milliseconds, price)."""


def moment(week: int, hours: float) -> int:
    """Milliseconds of a time some hours into a week."""
    return week_start_ms(week) + int(hours * 3_600_000)


def default_purchases() -> list[Purchase]:
    """Each household buys its own product twice a week, and one that changes from week to week."""
    rows: list[Purchase] = []
    for week in range(2, 8):
        for household in HOUSEHOLDS:
            for visit in (0, 1):
                basket = week * 1000 + household * 10 + visit
                at = moment(week, 24 + household + 48 * visit)
                rows.append((household, basket, 100 + household, at, 1.0 + week))
                rows.append((household, basket, 105 + (week + household + visit) % 7, at, 2.0))
    return rows


@dataclass
class TinyTables:
    """What goes into the files. Change a table, then `write`."""

    purchases: list[Purchase] = field(default_factory=default_purchases)
    promotions: list[tuple[int, int, str, str, int]] = field(
        default_factory=lambda: [
            (101, 300, "3", "0", 2),
            (101, 301, "3", "A", 2),
            (101, 300, "3", "0", 3),
            (101, 301, "3", "A", 3),
            (102, 300, "0", "D", 3),
            (101, 300, "9", "0", 5),
        ]
    )
    """(product, store, display, mailer, week)."""
    campaigns: list[tuple[int, str, date, date]] = field(
        default_factory=lambda: [
            (1, "Type B", date(2017, 1, 10), date(2017, 1, 12)),
            (2, "Type A", date(2016, 12, 1), date(2017, 1, 3)),
        ]
    )
    coupons: list[tuple[int, int, int]] = field(
        default_factory=lambda: [(9001, 101, 1), (9002, 101, 1), (9003, 102, 2)]
    )
    """(coupon, product, campaign)."""

    def write(self, folder: Path) -> Journey:
        """Write the parquet files and open them."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = {
            "products": self._products(),
            "transactions": self._transactions(),
            "promotions": pl.DataFrame(
                self.promotions,
                schema=["product_id", "store_id", "display_location", "mailer_location", "week"],
                orient="row",
            ),
            "campaign_descriptions": pl.DataFrame(
                self.campaigns,
                schema=["campaign_id", "campaign_type", "start_date", "end_date"],
                orient="row",
            ),
            "coupons": pl.DataFrame(
                self.coupons, schema=["coupon_upc", "product_id", "campaign_id"], orient="row"
            ),
            "demographics": _demographics(),
        }
        for name, table in tables.items():
            table.write_parquet(folder / f"{name}.parquet")
        return Journey(folder)

    def _products(self) -> pl.DataFrame:
        count = len(PRODUCTS)
        return pl.DataFrame(
            {
                "product_id": list(reversed(PRODUCTS)),
                "manufacturer_id": [7 + i % 3 for i in range(count)],
                "department": ["GROCERY" if i % 2 else "DRUG GM" for i in range(count)],
                "brand": ["National"] * count,
                "product_category": [None if i == 0 else f"CATEGORY {i % 4}" for i in range(count)],
                "product_type": [None if i == 0 else f"KIND {chr(65 + i)}" for i in range(count)],
                "package_size": ["12 OZ"] * count,
            }
        )

    def _transactions(self) -> pl.DataFrame:
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        rows = sorted(self.purchases, key=lambda row: row[3])
        return pl.DataFrame(
            {
                "household_id": [row[0] for row in rows],
                "store_id": [300] * len(rows),
                "basket_id": [row[1] for row in rows],
                "product_id": [row[2] for row in rows],
                "quantity": [1] * len(rows),
                "sales_value": [row[4] for row in rows],
                "week": [_week(row[3]) for row in rows],
                "transaction_timestamp": [
                    (epoch + timedelta(milliseconds=row[3])).replace(tzinfo=None) for row in rows
                ],
            },
            schema_overrides={"transaction_timestamp": pl.Datetime("ns")},
        )


def _week(at_ms: int) -> int:
    return next(week for week in range(1, 54) if week_start_ms(week) <= at_ms < week_start_ms(week + 1))


def _demographics() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "household_id": [1, 3],
            "age": ["65+", "25-34"],
            "income": ["35-49K", "50-74K"],
            "home_ownership": ["Homeowner", None],
            "marital_status": ["Married", "Unmarried"],
            "household_size": ["2", "1"],
            "household_comp": ["2 Adults No Kids", "1 Adult No Kids"],
            "kids_count": ["0", "0"],
        }
    )
