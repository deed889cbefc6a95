"""Every setting, read from the environment here and nowhere else.

`SKEWLESS_DATA_DIR=/srv/skewless skewless serve` sets `data_dir`. Unknown `SKEWLESS_…` names are
refused, so a typo is an error and not a silent default. `docs/settings.md` lists them all (tested).
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import Refused
from schemas.tiers import Tiers, VersionPolicy, read_tiers

ENV_PREFIX = "SKEWLESS_"


class Settings(BaseSettings):
    """Settings of every process. Durations and sizes carry their unit in the name."""

    # Without the last one an error would carry every value that came, secrets in clear.
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("var"), description="where towers, snapshots, releases, state and logs live")
    tier: str = Field("realtime", description="inventory tier that this process works for")

    kafka_bootstrap_servers: str = Field(
        "", description="brokers as host:port,…; empty: no broker is configured (the demo brings its own)"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT is refused to a host that is not loopback unless allowed below"
    )
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "", description="empty: SCRAM-SHA-512; with SASL_… only"
    )
    kafka_sasl_username: str = Field("", description="needed with SASL_…, as is the password")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="never printed")
    kafka_ssl_ca_location: str = Field("", description="file of the CA certificates; empty: the system's own")
    kafka_replication_factor: int = Field(
        1, ge=1, le=10, description="copies of each topic that `skewless topics` creates"
    )
    kafka_allow_plaintext: bool = Field(False, description="allow PLAINTEXT to a host that is not loopback")

    schema_registry_url: str = Field(
        "", description="schema registry of framed Avro and Protobuf messages; empty: plain JSON only"
    )
    schema_registry_username: str = Field("", description="with a registry that asks for one")
    schema_registry_password: SecretStr = Field(SecretStr(""), description="never printed")
    schema_registry_ca_location: str = Field(
        "", description="file of the CA certificates; empty: those of the certifi package"
    )
    schema_registry_allow_plaintext: bool = Field(
        False, description="allow http to a registry on a host that is not loopback"
    )

    store_url: str = Field(
        "", description="where releases and towers are kept: s3://bucket/prefix; empty: the data directory"
    )
    store_endpoint: str = Field(
        "", description="address of a store that speaks S3, such as https://minio:9000; empty: Amazon's"
    )
    store_region: str = Field("us-east-1", description="region of the bucket")
    store_access_key_id: str = Field(
        "", description="empty: credentials as AWS's own tools find them (the machine's role, AWS_… names)"
    )
    store_secret_access_key: SecretStr = Field(SecretStr(""), description="never printed")
    store_allow_http: bool = Field(False, description="allow http to a store that is not on this host")
    store_cached_releases: int = Field(
        3, ge=2, le=1000, description="copies of the store's releases that this machine keeps"
    )
    store_poll_seconds: float = Field(
        2.0, ge=0.1, le=3600, description="how often a server asks the store what is live"
    )

    batch_events: int = Field(
        16_384, ge=1, le=100_000, description="most events that one enrichment batch takes"
    )
    state_flush_seconds: float = Field(
        10.0, gt=0, description="how often changed Pin states go to pin.features.v1, for restores"
    )
    state_flush_chunk_pins: int = Field(
        2048, ge=1, le=1_000_000, description="states written between two batches of a flush"
    )
    backfill: Literal["worker", "batch"] = Field(
        "worker", description="who embeds all Pins for a new tower: the workers, or `skewless embed`"
    )
    watchdog_seconds: float = Field(
        120.0, ge=5, description="a worker with messages waiting and no progress for this long ends (exit 70)"
    )
    device: str = Field("cpu", description="torch device of the towers: cpu, cuda, cuda:1")
    index_device: str = Field(
        "cpu", description="where a server searches: cpu (FAISS), or cuda, cuda:1 (an exact scan by torch)"
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one process's tower and index")

    cut_clock: Literal["event", "wall"] = Field(
        "event", description="whose hours the snapshot cutter follows"
    )
    cut_every_seconds: float = Field(
        0.0, ge=0, description="cut this often whatever the hour; 0 leaves it to the clock above"
    )
    windows_clock: Literal["event", "wall"] = Field(
        "event", description="whose day ends the day windows: the newest event's or the wall's"
    )
    windows_dedupe_days: int = Field(
        2, ge=0, le=30, description="a visit or engagement sent again within these days counts once; 0: again"
    )
    stream_stall_seconds: float = Field(
        60.0, gt=0, description="`skewless stream` ends when messages wait and none moves for this long"
    )

    impression_time: Literal["served", "queried"] = Field(
        "served", description="an impression's time; queried: the query's own, for replays of old data"
    )
    attribution_visit_seconds: int = Field(
        86_400, ge=1, description="after an impression a visit may be credited to it for this long"
    )
    attribution_click_seconds: int = Field(86_400, ge=1, description="the same of a click")
    attribution_save_seconds: int = Field(86_400, ge=1, description="the same of a save")
    attribution_purchase_seconds: int = Field(
        604_800, ge=1, description="the same of a purchase; rows wait for the longest of these"
    )
    attribution_redemption_seconds: int = Field(604_800, ge=1, description="the same of a redemption")
    attribution_lateness_seconds: float = Field(
        60.0, ge=0, description="disorder allowed inside one partition of a topic; later events are left out"
    )
    attribution_idle_seconds: float = Field(
        300.0, ge=0, description="a topic silent for this long holds no window open; 0: it does for ever"
    )
    skew_window_seconds: float = Field(600.0, ge=10, description="how far back the skew monitor counts")
    skew_grace_seconds: float = Field(
        120.0, ge=0, description="after a release is published the version before it is right for this long"
    )
    skew_raise_seconds: float = Field(
        30.0, ge=0, description="skew lasts this long before it is an alert (mixed answers: at once)"
    )
    skew_clear_seconds: float = Field(
        60.0, ge=0, description="an alert is cleared when the skew has been over for this long"
    )
    skew_stream_share: float = Field(
        0.05, ge=0, le=1, description="share of Pins without a row of the serving version that is an alert"
    )
    skew_query_share: float = Field(
        0.01, ge=0, le=1, description="share of answers by a tower that is not released that is an alert"
    )

    index_kind: Literal["auto", "flat", "ivf", "hnsw"] = Field(
        "auto", description="auto: flat up to 200,000 Pins, ivf above"
    )
    keep_releases: int = Field(
        8, ge=2, le=1000, description="releases, and snapshots per tower version, kept on disk"
    )
    min_rows_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="a new release is refused with fewer Pins than this share of the live one, in all or in "
        "any tier",
    )
    keep_snapshot_days: int = Field(
        7, ge=0, le=3650, description="of older snapshots the last of each day is kept, for so many days"
    )

    http_host: str = Field("127.0.0.1", description="address that the server binds")
    http_port: int = Field(8080, ge=0, le=65535, description="0 takes a free port")
    drain_seconds: float = Field(
        2.0, ge=0, le=600, description="how long a server that is told to end answers on, not ready any more"
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address that --metrics-port of a process binds; the server's is http_host"
    )
    leaves: str = Field(
        "", description="host:port of every leaf, in the order of their shards; empty: no shards"
    )
    leaf_port: int = Field(8091, ge=0, le=65535, description="port of `skewless leaf` on http_host; 0: free")
    leaf_deadline_seconds: float = Field(
        0.25, gt=0, le=60, description="a shard that has not answered by then is not in the answer"
    )
    leaf_down_seconds: float = Field(
        10.0, ge=0, description="a leaf down for longer does not hold up the swap to a new release"
    )
    leaf_quorum: int = Field(
        0, ge=0, le=1000, description="leaves that must have a release before it is served; 0: all not down"
    )
    admin_token: SecretStr = Field(
        SecretStr(""), description="bearer token of the admin routes; empty closes them"
    )
    delta: Literal["on", "off"] = Field(
        "on", description="serve what is newer than the release's snapshots; needs a broker"
    )
    delta_refresh_seconds: float = Field(
        0.5, ge=0.05, le=60, description="how often what has come is laid over the served release"
    )
    delta_catch_up_seconds: float = Field(
        10.0, ge=0, description="how long a loaded release waits for its delta segment before it is served"
    )
    delta_max_vectors: int = Field(
        100_000, ge=0, description="most embeddings the delta segment holds per tower version"
    )
    version_policy: VersionPolicy = Field(
        "enforce", description="tolerate serves releases of mixed tower versions, and labels every answer"
    )
    reserve_price_micros: int = Field(1_000, ge=0, description="least that an impression costs")

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_names(cls, values: dict[str, object]) -> dict[str, object]:
        known = {ENV_PREFIX + name.upper() for name in cls.model_fields}
        unknown = sorted(
            name for name in os.environ if name.startswith(ENV_PREFIX) and name.upper() not in known
        )
        if unknown:
            near = get_close_matches(unknown[0], known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown setting {', '.join(unknown)}{meant}")
        return values

    def tiers(self) -> Tiers:
        """What `tiers.json` of the data directory declares, or one realtime tier. Raises Refused."""
        return read_tiers(self.data_dir / "tiers.json", self.tier)

    @property
    def towers_dir(self) -> Path:
        """Checkpoints, and LIVE: the tower versions that the worker embeds with."""
        return self.data_dir / "towers"

    @property
    def snapshots_dir(self) -> Path:
        """Immutable hourly snapshots."""
        return self.data_dir / "snapshots"

    @property
    def embeddings_dir(self) -> Path:
        """Runs of the batch embedder, a directory each."""
        return self.data_dir / "embeddings"

    @property
    def releases_dir(self) -> Path:
        """Immutable releases, CURRENT and the audit trail."""
        return self.data_dir / "releases"

    @property
    def users_dir(self) -> Path:
        """The online store of user records."""
        return self.data_dir / "users"

    @property
    def logs_dir(self) -> Path:
        """Ranking logs."""
        return self.data_dir / "logs"

    @property
    def ship_position_file(self) -> Path:
        """How far the journals are on Kafka."""
        return self.data_dir / "shipping" / "positions.json"

    def state_dir(self, worker: int) -> Path:
        """RocksDB of one enrichment worker."""
        return self.data_dir / "state" / f"worker-{worker}"

    def stream_dir(self, worker: int) -> Path:
        """State of one `skewless stream` process: a directory per step."""
        return self.data_dir / "state" / f"stream-{worker}"

    def cutter_lock(self, tier: str) -> Path:
        """Held by the cutter of a tier for as long as it runs."""
        return self.snapshots_dir / f".cutter-{tier}.lock"

    def status_file(self, name: str) -> Path:
        """What a process last said about itself, for the console."""
        return self.data_dir / "status" / f"{name}.json"

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Settings from the environment; `overrides` (the command line's) win.

        Raises Refused that names the setting, what came and what it takes.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            variable = f"{ENV_PREFIX}{name.upper()} or the command line" if name else "the environment"
            raise Refused(
                "bad_setting",
                expected=f"{name or 'settings'}: {first['msg'].removeprefix('Value error, ')}",
                came=f"another value, by {variable} (it is not printed: it may be secret)",
                fix="docs/settings.md lists every setting with its default.",
            ) from error
