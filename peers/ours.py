"""Measure tidemark's tail on the same backlog as the peers.  python ours.py prepare|catchup -n RUNS

prepare commits RUNS positions before the backlog is loaded (what a tail that was down comes back to); catchup lets each drain it.
Record time is the broker's append time, and CPU is user+sys of the process from its start to its last record, as for the peers'
workers from their first; peak memory is the process's.
"""
import argparse, json, os, subprocess, time
from common import *

TIDEMARK = E["TIDEMARK"]


def start(prefix):
    env = {name: value for name, value in E.items() if not name.startswith("TIDEMARK_")}
    env |= {"MONGODB_URI": MONGO_URI, "MONGODB_DATABASE": "bench", "KAFKA_BOOTSTRAP_SERVERS": BROKERS, "TIDEMARK_HTTP_LISTEN": "", "TIDEMARK_KAFKA_PARTITIONS": "1"}
    log = open(WORK / f"{prefix}.log", "a")
    # The spec is found from the repository's root, where the flights' folder is.
    root = os.path.dirname(os.path.dirname(E["FLIGHTS"]))
    return subprocess.Popen([TIDEMARK, "run", "--stages", "tail", "--topic-prefix", prefix, "--instance", prefix], env=env, cwd=root, stdout=log, stderr=subprocess.STDOUT)


def stop(p):
    p.terminate(); p.wait(15)


def end(c, topic):
    import confluent_kafka as ck
    try:
        return c.get_watermark_offsets(ck.TopicPartition(topic, 0), timeout=5)[1]
    except ck.KafkaException:
        return 0


def prepare(prefix):
    p, c = start(prefix), watcher()
    while not end(c, f"{prefix}.positions"):
        if p.poll() is not None:
            raise SystemExit("tidemark ended at once: " + open(WORK / f"{prefix}.log").read())
        time.sleep(0.1)
    time.sleep(0.5)
    stop(p); c.close()


def catchup(prefix, count):
    topic = f"{prefix}.tickets"
    c = watcher(); before = end(c, topic)
    t0 = time.time(); p = start(prefix)
    first = None; n = last = before; t = time.time()
    while n - before < count or time.time() - t < 1.5:
        n = end(c, topic)
        if n > before and first is None:
            first = dict(srv=server_cpu())
        if n != last:
            last, t = n, time.time()
        if p.poll() is not None or time.time() - t0 > 180:
            raise SystemExit(f"stopped early at {n - before}: see {WORK / prefix}.log")
        time.sleep(0.05)
    used, srv, peak = cpu(p.pid), server_cpu(), rss_peak_mb(p.pid)
    stop(p); c.close()
    recs = [(ts, key, value) for ts, key, value in drain(topic) if key is not None]
    ids = {key for _, key, _ in recs}
    ts = [r[0] for r in recs]; dt = (max(ts) - min(ts)) / 1e3; k = 1e5 / len(recs)
    record(item="catchup", kind="tidemark", variant="default", eos=True, n=len(recs), distinct=len(ids), s=dt, per_s=len(recs) / dt, start_to_first_s=min(ts) / 1e3 - t0, worker_cpu_s_per_100k=used * k,
           mongod_cpu_s_per_100k=(srv["mongod"] - first["srv"]["mongod"]) * k, kafka_cpu_s_per_100k=(srv["kafka"] - first["srv"]["kafka"]) * k, rss_peak_mb=peak, value_bytes=sum(len(v) for _, _, v in recs) / len(recs))


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("what"); a.add_argument("-n", type=int, default=3)
    o = a.parse_args()
    for run in range(o.n):
        prepare(f"ours{run}") if o.what == "prepare" else catchup(f"ours{run}", json.load(open(WORK / "load.json"))["count"])
