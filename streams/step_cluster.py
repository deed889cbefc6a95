"""Which Kafka cluster the state of a Faust process is of."""

from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.artefacts import write_atomic
from schemas.errors import Refused, RetryableError

from .kafka import KafkaSettings, producer_config

_CLUSTER_FILE = "CLUSTER"
_ASK_SECONDS = 10.0


def tie_to_cluster(kafka: KafkaSettings, folder: Path) -> None:
    """Tie the state in `folder` to the cluster that it is of.

    Raises Refused when it belongs to another one, whose offsets would pass for this one's, and
    RetryableError when the broker is out of reach.
    """
    try:
        config = {name: value for name, value in producer_config(kafka).items() if _is_connection(name)}
        cluster = str(AdminClient(config).list_topics(timeout=_ASK_SECONDS).cluster_id)
    except KafkaException as error:
        raise RetryableError(f"Kafka is out of reach: {error.args[0].str()}") from error
    file = folder / _CLUSTER_FILE
    owner = file.read_text("utf-8") if file.exists() else None
    if owner is not None and owner != cluster:
        raise Refused(
            "state_of_another_cluster",
            expected=f"state folded from Kafka cluster {cluster}",
            came=f"state folded from {owner}, in {folder}",
            fix="Delete that directory: it is rebuilt from the topics (an embedded broker is a new cluster "
            "each time).",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, cluster.encode())


def _is_connection(name: str) -> bool:
    return name.startswith(("bootstrap.", "client.", "security.", "sasl.", "ssl."))
