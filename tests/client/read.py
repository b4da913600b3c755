#!/usr/bin/env python3
"""A consumer that shares no code with tidemark: reads its topics, read_committed, and prints one JSON object a record.

Before that it waits until `status` has a verdict at or after --until (ms since 1970). Every value is held against the
topic's JSON Schema, and the chains of `tickets` and `dead-letters` are followed, sequence and hash.
"""

import argparse
import hashlib
import json
import pathlib
import struct
import sys
import time

import jsonschema
from confluent_kafka import Consumer, TopicPartition

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schemas"
CHAINED = ("tickets", "dead-letters")
TOPICS = (*CHAINED, "prediction-errors", "summaries", "alerts", "retraining-triggers", "status", "baselines", "positions", "model-events")


def consumer(servers: str) -> Consumer:
    return Consumer({
        "bootstrap.servers": servers,
        "group.id": "somebody-else",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,
    })


def wait_for_verdict(servers: str, prefix: str, until_ms: int, timeout: float) -> None:
    reader, last, end = consumer(servers), None, time.monotonic() + timeout
    reader.assign([TopicPartition(f"{prefix}.status", 0, 0)])
    while time.monotonic() < end:
        message = reader.poll(0.5)
        if message is None or message.error():
            continue
        last = json.loads(message.value())
        if last["at_ms"] >= until_ms:
            reader.close()
            return
    sys.exit(f"no verdict at or after {until_ms} within {timeout} s; the last: {last and (last['mark'], last['at_ms'], last['summary'])}")


def records(servers: str, topic: str):
    """Every committed record of a topic, partition by partition; none where there is no such topic."""
    reader = consumer(servers)
    partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
    for partition in partitions:
        reader.assign([TopicPartition(topic, partition, 0)])
        ended = False
        while not ended:
            messages = reader.consume(1000, timeout=1)
            ended = any(message.error() for message in messages)  # only the end of the partition is reported so
            yield from (message for message in messages if not message.error())
    reader.close()


class Chain:
    """Follows one partition's chain, as the schema's document describes it."""

    def __init__(self):
        self.id, self.seq, self.hash = None, 0, b""

    def follow(self, message, headers):
        chain, seq, digest = headers["chain"].decode().split(":")
        if chain != self.id:
            self.id, self.seq, self.hash = chain, 0, hashlib.sha256(chain.encode()).digest()[:16]
        if int(seq) != self.seq + 1:
            return f"sequence {seq} follows {self.seq}"
        key, value = message.key(), message.value()
        sha = hashlib.sha256(self.hash + struct.pack("<Q", int(seq)) + headers["kind"] + b"\0")
        sha.update(struct.pack("<q", -1 if key is None else len(key)) + (key or b"") + value)
        self.seq, self.hash = int(seq), sha.digest()[:16]
        return None if self.hash.hex() == digest else f"the hash of {seq} does not follow"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("servers")
    arguments.add_argument("prefix")
    arguments.add_argument("--until", type=int)
    arguments.add_argument("--timeout", type=float, default=300)
    arguments = arguments.parse_args()
    if arguments.until is not None:
        wait_for_verdict(arguments.servers, arguments.prefix, arguments.until, arguments.timeout)
    faults = []
    for topic in TOPICS:
        schema = json.loads((SCHEMAS / f"{topic}.v1.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        # Most records are tickets, and need not be held against every control record too.
        ticket = jsonschema.Draft202012Validator({**schema, "oneOf": [{"$ref": "#/$defs/ticket"}]}) if topic == "tickets" else validator
        chains = {}
        for message in records(arguments.servers, f"{arguments.prefix}.{topic}"):
            where = f"{topic}[{message.partition()}] at {message.offset()}"
            headers = dict(message.headers() or [])
            value = None if message.value() is None else json.loads(message.value())
            fault = None if value is None else next((ticket if headers.get("kind") == b"ticket" else validator).iter_errors(value), None)
            if fault is not None:
                faults.append(f"{where}: {fault.json_path}: {fault.message}")
            if topic in CHAINED:
                broken = chains.setdefault(message.partition(), Chain()).follow(message, headers)
                if broken:
                    faults.append(f"{where}: {broken}")
            key = message.key()
            print(json.dumps({
                "topic": topic,
                "partition": message.partition(),
                "offset": message.offset(),
                "key": key if key is None else key.decode(errors="replace"),
                "headers": {name: data.decode() for name, data in headers.items()},
                "value": None if value is None else message.value().decode(),
            }))
    if faults:
        sys.exit(f"{len(faults)} faults, the first: " + "\n".join(faults[:5]))


if __name__ == "__main__":
    main()
