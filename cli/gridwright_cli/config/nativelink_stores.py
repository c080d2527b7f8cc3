"""NativeLink's stores in our words, which are mostly the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridwright_cli.config.findings import Findings, Keys
from gridwright_cli.config.nativelink_redis import redis_url

Store = dict[str, Any]

#: What is known, and cannot be translated: why, and what to write.
_NOT_OFFERED = {
    "dedup": "is not offered; write its content_store in its place",
    "shard": "is not offered yet; write one of its stores in its place",
    "experimental_mongo": "is not offered; write filesystem",
    "experimental_cloud_object_store": "is not offered yet; write filesystem",
    "experimental_s3_store": "is not offered yet; write filesystem",
    "experimental_gcs_store": "is not offered yet; write filesystem",
    "ontap_s3_existence_cache": "is not offered; write existence_cache with max_seconds",
}


class StoreTranslation:
    """Translates the stores that are asked for, and those that they refer to."""

    def __init__(self, stores: Sequence[Mapping[str, Any]], findings: Findings) -> None:
        self._findings = findings
        self._sources: dict[str, Mapping[str, Any]] = {}
        for index, store in enumerate(stores):
            name = str(store.get("name", ""))
            if not name:
                findings.fault(f"stores.{index}.name", "required, and not given")
            elif name in self._sources:
                findings.fault(f"stores.{name}", "the name is given twice; give one of the two another")
            self._sources[name] = store
        self._translated: dict[str, Store] = {}
        self._kinds: dict[str, Callable[[Keys], Store]] = {
            "memory": self._memory,
            "filesystem": self._filesystem,
            "redis_store": self._redis,
            "grpc": self._grpc,
            "noop": lambda keys: {"noop": {}},
            "ref_store": self._ref_store,
            "verify": self._verify,
            "compression": self._compression,
            "existence_cache": self._existence_cache,
            "fast_slow": self._fast_slow,
            "size_partitioning": self._size_partitioning,
            "completeness_checking": self._completeness_checking,
            "cache_metrics": self._cache_metrics,
        }

    def require(self, name: str, path: str) -> None:
        """Translate the store *name*, which is used at *path*, unless that has happened."""
        if name in self._translated:
            return
        if name not in self._sources:
            known = ", ".join(self._sources) or "none"
            self._findings.fault(path, f"there is no store {name!r}; known are: {known}")
            return
        self._translated[name] = {}  # a circle ends here, and is refused with our own settings
        source = {key: value for key, value in self._sources[name].items() if key != "name"}
        self._translated[name] = self._store(source, f"stores.{name}")

    def verifies(self, name: str) -> bool:
        """Return whether uploads into the store *name* are checked."""
        return _verifies(self._translated.get(name), self._translated)

    def max_bytes(self, name: str) -> Any:
        """Return the bound of the first file system store in the source of the store *name*, if it has one."""
        return _first_max_bytes(self._sources.get(name))

    def result(self) -> list[Store]:
        """Return our list `stores`, in the order of the source, with a note for each that nobody needs."""
        for name in self._sources:
            if name not in self._translated:
                self._findings.note(f"stores.{name}", "left out: neither CAS nor action cache is made of it")
        return [{"name": name, **self._translated[name]} for name in self._sources if name in self._translated]

    def _store(self, source: object, path: str) -> Store:
        if not isinstance(source, Mapping) or len(source) != 1:
            self._findings.fault(path, "write exactly one store: a mapping with one key")
            return {}
        [(kind, content)] = source.items()
        translate = self._kinds.get(kind)
        if translate is None:
            why = _NOT_OFFERED.get(kind, f"is no store that is known; known are: {', '.join(self._kinds)}")
            self._findings.fault(f"{path}.{kind}", why)
            return {}
        with self._findings.keys_of(content if content is not None else {}, f"{path}.{kind}") as keys:
            return translate(keys)

    def _inner(self, keys: Keys, key: str) -> Store:
        return self._store(keys.take(key), f"{keys.path}.{key}")

    def _memory(self, keys: Keys) -> Store:
        policy = self._policy(keys)
        if not (policy.get("max_bytes") or policy.get("max_count")):
            self._findings.note(keys.path, "changed: it had no bound, and has max_bytes: 1Gb now")
            policy["max_bytes"] = "1Gb"
        return {"memory": {"eviction_policy": policy}}

    def _filesystem(self, keys: Keys) -> Store:
        store = keys.copy("content_path", "temp_path")
        policy = self._policy(keys)
        if not policy:
            self._findings.note(keys.path, "has no bound, and may fill the disk; write eviction_policy.max_bytes")
        keys.ignore("there is nothing to be set", "read_buffer_size", "block_size", "max_concurrent_writes")
        keys.ignore("the page cache is left to the system", "evict_page_cache")
        return {"filesystem": {**store, "eviction_policy": policy or {"max_bytes": 0}}}

    def _redis(self, keys: Keys) -> Store:
        store: Store = {}
        try:
            store["url"] = redis_url(keys.take("addresses") or (), keys.take("mode"))
        except ValueError as error:
            self._findings.fault(f"{keys.path}.addresses", str(error))
        if prefix := keys.take("key_prefix"):
            store["key_prefix"] = prefix
        if expire_seconds := keys.take("key_ttl_s"):
            store["expire_seconds"] = expire_seconds
        timeouts = [name for unit in ("ms", "s") for name in (f"command_timeout_{unit}", f"connection_timeout_{unit}")]
        keys.ignore(
            "an answer comes within timeout_seconds, which is 0.2 unless it is written",
            *timeouts,
            "response_timeout_s",
            "health_check_timeout_ms",
        )
        keys.ignore("what Redis does not take is tried again for write_retry_seconds", "retry")
        keys.ignore(
            "lookups and writes travel together over few connections", "connection_pool_size", "max_client_permits"
        )
        keys.ignore(
            "there is nothing to be set",
            "read_chunk_size",
            "max_chunk_uploads_per_update",
            "scan_count",
            "max_count_per_cursor",
            "experimental_pub_sub_channel",
            "broadcast_channel_capacity",
        )
        self._findings.note(keys.path, "changed: its results are not found here, as keys and values have another form")
        return {"redis": store}

    def _grpc(self, keys: Keys) -> Store:
        endpoints = []
        for index, endpoint in enumerate(keys.take("endpoints") or []):
            with self._findings.keys_of(endpoint, f"{keys.path}.endpoints.{index}") as inner:
                if inner.take("tls_config"):
                    self._findings.fault(f"{inner.path}.tls_config", "TLS between services is not offered yet")
                endpoints.append(inner.copy("address"))
                keep_alive = ("tcp_keepalive_s", "http2_keepalive_interval_s", "http2_keepalive_timeout_s")
                inner.ignore("there is nothing to be set", "concurrency_limit", "connect_timeout_s", *keep_alive)
        keys.ignore("there is nothing to be set", "retry", "max_concurrent_requests", "connections_per_endpoint")
        store = keys.copy("store_type")
        # Theirs is the empty name unless it is given, ours the name of the instance.
        return {"grpc": {"instance_name": keys.take("instance_name") or "", "endpoints": endpoints, **store}}

    def _ref_store(self, keys: Keys) -> Store:
        name = str(keys.take("name") or "")
        self.require(name, f"{keys.path}.name")
        return {"ref_store": {"name": name}}

    def _verify(self, keys: Keys) -> Store:
        backend = self._inner(keys, "backend")
        checks = keys.copy("verify_size", "verify_hash")
        for key in {"verify_size", "verify_hash"} - checks.keys():
            self._findings.note(f"{keys.path}.{key}", "changed: off there unless it is written, and on here")
        if checks.keys() == {"verify_size", "verify_hash"} and not any(checks.values()):
            self._findings.note(keys.path, "left out: it checks nothing")
            return backend
        return {"verify": {**checks, "backend": backend}}

    def _compression(self, keys: Keys) -> Store:
        algorithms = keys.take("compression_algorithm") or {}
        store: Store = {"backend": self._inner(keys, "backend")}
        with self._findings.keys_of(algorithms, f"{keys.path}.compression_algorithm") as algorithm:
            lz4 = algorithm.take("lz4")
            if lz4 is None:
                self._findings.fault(algorithm.path, "write lz4, the only one that NativeLink has")
                return store
            with self._findings.keys_of(lz4, f"{algorithm.path}.lz4") as inner:
                block_size = inner.take("block_size")
                inner.ignore("blocks are read as they were written", "max_decode_block_size")
        return {
            "compression": {
                "compression_algorithm": {"lz4": {"block_size": block_size} if block_size else {}},
                **store,
            }
        }

    def _existence_cache(self, keys: Keys) -> Store:
        store: Store = {"backend": self._inner(keys, "backend")}
        if policy := self._policy(keys):
            store["eviction_policy"] = policy
        else:
            self._findings.note(keys.path, "changed: it had no bound, and remembers at most 2,000,000 blobs now")
        return {"existence_cache": store}

    def _fast_slow(self, keys: Keys) -> Store:
        store: Store = {half: self._inner(keys, half) for half in ("fast", "slow")}
        keys.ignore("concurrent readers always share one download", "bypass_dedup_threshold_bytes")
        return {"fast_slow": {**store, **keys.copy("fast_direction", "slow_direction")}}

    def _size_partitioning(self, keys: Keys) -> Store:
        store = keys.copy("size")
        return {
            "size_partitioning": {**store, **{key: self._inner(keys, key) for key in ("lower_store", "upper_store")}}
        }

    def _completeness_checking(self, keys: Keys) -> Store:
        return {"completeness_checking": {key: self._inner(keys, key) for key in ("backend", "cas_store")}}

    def _cache_metrics(self, keys: Keys) -> Store:
        name = str(keys.take("cache_type") or "store")
        return {"metered": {"name": name, "backend": self._inner(keys, "backend")}}

    def _policy(self, keys: Keys) -> Store:
        with self._findings.keys_of(keys.take("eviction_policy") or {}, f"{keys.path}.eviction_policy") as policy:
            found = policy.copy("max_bytes", "evict_bytes", "max_seconds", "max_count")
        return {key: value for key, value in found.items() if value not in (0, "0")}


def _verifies(store: object, named: Mapping[str, Store]) -> bool:
    if not isinstance(store, Mapping) or len(store) != 1:
        return False
    [(kind, content)] = store.items()
    match kind:
        case "verify":
            return bool(content.get("verify_hash", True))
        case "ref_store":
            return _verifies(
                named.get(content["name"]), {key: one for key, one in named.items() if key != content["name"]}
            )
        case "existence_cache" | "metered":
            return _verifies(content["backend"], named)
        case _:
            return False


def _first_max_bytes(source: object) -> Any:
    if not isinstance(source, Mapping):
        return None
    if "filesystem" in source:
        return ((source["filesystem"] or {}).get("eviction_policy") or {}).get("max_bytes")
    found = (_first_max_bytes(inner) for inner in source.values())
    return next((one for one in found if one), None)
