"""Makes tests/golden/tickets.parquet and tickets-flat.parquet: `pip install pyarrow`, then `python3 parquet.py` beside them."""
import datetime as dt
import decimal
import pyarrow as pa
import pyarrow.parquet as pq

AT = dt.datetime(2013, 3, 10, 7, 1, 1, 500000, tzinfo=dt.timezone.utc)
ROWS = 5
rows = [
    {
        "ticket_id": f"t{i}", "status": "COMPLETED" if i != 3 else "FAILED", "task_type": "BUILD", "risk_band": "high" if i else None,
        "qos": {"delivery_mode": "exactly_once", "consistency": "strong", "durability": None}, "sla": {"timeout_ms": 300000 + i},
        "parameters": {"k": "v", "n": 1.5, "list": [1, 2]}, "required_capabilities": ["x"] * i if i != 2 else None,
        "created_at": AT - dt.timedelta(seconds=61), "started_at": 1362898800000, "completed_at": AT if i != 4 else None,
        "estimated_duration_ms": 50000.0, "actual_duration_ms": decimal.Decimal("60000.5"), "retry_count": i, "secret": "hunter2",
    }
    for i in range(ROWS)
]
schema = pa.schema([
    ("ticket_id", pa.string()), ("status", pa.dictionary(pa.int8(), pa.string())), ("task_type", pa.large_string()), ("risk_band", pa.string()),
    ("qos", pa.struct([("delivery_mode", pa.string()), ("consistency", pa.string()), ("durability", pa.string())])),
    ("sla", pa.struct([("timeout_ms", pa.int64())])),
    ("parameters", pa.struct([("k", pa.string()), ("n", pa.float64()), ("list", pa.list_(pa.int32()))])),
    ("required_capabilities", pa.list_(pa.string())), ("created_at", pa.timestamp("us", tz="America/New_York")), ("started_at", pa.int64()),
    ("completed_at", pa.timestamp("ns")), ("estimated_duration_ms", pa.float32()), ("actual_duration_ms", pa.decimal128(20, 3)),
    ("retry_count", pa.uint8()), ("secret", pa.string()),
])
naive = [{**row, "completed_at": row["completed_at"] and row["completed_at"].replace(tzinfo=None)} for row in rows]
pq.write_table(pa.Table.from_pylist(naive, schema=schema), "tickets.parquet", row_group_size=2, compression="zstd")
flat = pa.table({
    "ticket_id": pa.array([1, 2]), "status": ["COMPLETED", "COMPLETED"], "sla.timeout_ms": pa.array([5, None], pa.int32()),
    "qos.durability": ["persistent", "transient"], "completed_at": ["2013-03-10T07:01:01Z", "2013-03-10T07:01:02Z"],
    "actual_duration_ms": pa.array([5, 0], pa.int16()), "created_at": pa.array([dt.date(2013, 3, 10)] * 2), "parameters": [b"ab", None],
})
pq.write_table(flat, "tickets-flat.parquet", compression="snappy")
