"""The Kafka edge: what reads from Kafka and writes to it. Its modules, by what they are part of.

- Enrichment worker: `worker*`, `enrichment`, `backfill`, `telemetry`; in: `intake`, `fetched`, `sources`,
  `decoding`, `framed_batches`, `misplaced`, `change_rows`, `pin_fold`, `handover`, `catch_up`, `positions`,
  `contact`; towers: `tower_*`, `pin_trials`; state: `state_*`; out: `embedded_rows`, `embedded_tiers`,
  `outlet`, `in_flight`.
- Snapshot cutter: `cut*`, `embedded_topic`, `embedded_batches`, `tier_rows`, `checkpoints`,
  `snapshot_telemetry`.
- Batch job (`skewless embed`): `batch_*`, `embedding_runs`, `joined_shards`, `live_gate`, `embed_status`.
- Steps under Faust: `step*`, `app`, `faust_loop`, `event_clock`, `stream_telemetry`; one by one: `window*`,
  `impressions`, `attribution*`, `skew_*`.
- Dead letters: `dead_letters`, `letters`, `letter_replay`. Journals to Kafka: `journals`, `ship*`.
- Wire formats: `wire_format`, `avro_values`, `protobuf_values`, `schema_registry`, `registry_extra`.
- Recorded events: `replay*`; files of events: `event_checks`, `event_decoding`, `event_lines`.
- Topics to look at: `topic_reader`, `topic_rows`, `topic_report`, `tail`, `message_text`; for servers:
  `fresh_rows`.
- For all of them: `kafka*`, `topic_admin`, `murmur2`, `broker_wait`, `stalls`, `trouble`, `watchdog`; brokers
  for demo and tests: `embedded_broker`, `local_kafka`.
"""
