import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.topics import PIN_CHANGED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, consumer_config, producer_config
from streams.murmur2 import partitions_of


def test_a_pin_is_on_the_partition_where_our_producers_put_it() -> None:
    rng = np.random.default_rng(1)
    pins = np.unique(
        np.concatenate([rng.integers(0, 10**power, 12) for power in range(1, 19)] + [[2**63 - 1]])
    )
    with EmbeddedBroker([(PIN_CHANGED.name, 7)]) as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        for pin in pins.tolist():
            producer.produce(PIN_CHANGED.name, b"{}", str(pin).encode())
        assert producer.flush(20) == 0
        consumer = Consumer(consumer_config(settings, "looks"))
        consumer.assign([TopicPartition(PIN_CHANGED.name, number, 0) for number in range(7)])
        found: dict[int, int] = {}
        while len(found) < len(pins):
            for message in consumer.consume(100, 5.0):
                key, number = message.key(), message.partition()
                assert key is not None and number is not None
                found[int(key)] = number
        consumer.close()

    assert partitions_of(pins, 7).tolist() == [found[pin] for pin in pins.tolist()]
