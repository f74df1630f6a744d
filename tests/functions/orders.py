"""Functions as users write them for a stream of DynamoDB: each appends the records that it takes to a file."""

import json
import os
import time


def keep(line):
    with open(os.environ["TRADEWIND_TEST_RECORDS"], "a") as records:
        records.write(json.dumps(line) + "\n")


def take(record):
    value = record["dynamodb"].get("NewImage", {}).get("v", {}).get("S", "")
    if value.startswith("poison"):
        raise ValueError(f"can't take {value}")
    if value.startswith("slow"):
        time.sleep(60)
    keep(record)


def whole(event, context):
    """Whatever is raised sends the whole batch back."""
    for record in event["Records"]:
        take(record)


def partial(event, context):
    """Names the first record that it can't take; `report_batch_item_failures` goes with it."""
    for record in event["Records"]:
        try:
            take(record)
        except ValueError:
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
    return {"batchItemFailures": []}


def repaired(event, context):
    """What `whole` and `partial` become once somebody has seen to the poison."""
    for record in event["Records"]:
        keep(record)


def windows(event, context):
    """Counts the records of a tumbling window, and keeps what it gets with the last call of each."""
    state = {"count": event["state"].get("count", 0) + len(event["Records"])}
    if event["isFinalInvokeForWindow"]:
        keep({**event, "state": state})
    return {"state": state}
