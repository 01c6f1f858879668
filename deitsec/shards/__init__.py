"""Adversarial datasets on disk: Parquet shards and the manifest that says what is in them."""

from deitsec.shards.layout import MANIFEST, shard_name
from deitsec.shards.manifest import (
    Configuration,
    Manifest,
    PlanRecord,
    ShardEntry,
    SourceRecord,
    UnreadableRow,
    VariantRecord,
    load_manifest_schema,
    read_manifest,
    write_manifest,
)
from deitsec.shards.shard_error import ShardError
from deitsec.shards.shard_file import read_shard, write_shard
from deitsec.shards.shard_folder import ShardFolder
from deitsec.shards.shard_rows import ShardAbout, ShardRows, shard_schema

__all__ = [
    "MANIFEST",
    "Configuration",
    "Manifest",
    "PlanRecord",
    "ShardAbout",
    "ShardEntry",
    "ShardError",
    "ShardFolder",
    "ShardRows",
    "SourceRecord",
    "UnreadableRow",
    "VariantRecord",
    "load_manifest_schema",
    "read_manifest",
    "read_shard",
    "shard_name",
    "shard_schema",
    "write_manifest",
    "write_shard",
]
