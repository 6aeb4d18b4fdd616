"""What comparing the images of a Sentinel-2 product with its manifest costs.

    python benchmarks/checksums.py PRODUCT.SAFE [--repeat 3]

Prints for each image that a run with 10 m bands uses its size and the processor time of its comparison, then how fast
this Python hashes. A run does this in the threads that decode, while its libraries are imported and other images are
read (`hsfuse.readers.sentinel2.images`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

from hsfuse.readers.sentinel2.archive import SafeArchive
from hsfuse.readers.sentinel2.layers import layer_members
from hsfuse.readers.sentinel2.metadata import read_safe_metadata
from hsfuse.sensors.sentinel2 import BANDS_10M

_PROBE_BYTES = 1 << 26


def seconds_of(archive: SafeArchive, member: str, layer: str, repeat: int) -> float:
    """Least processor time of a comparison."""
    found = []
    for _ in range(repeat):
        begun = time.process_time()
        archive.check_image(member, layer, verify=True)
        found.append(time.process_time() - begun)
    return min(found)


def speed_of(name: str) -> float:
    """MB of a buffer hashed in a second of processor time."""
    buffer = os.urandom(_PROBE_BYTES)
    digest = hashlib.new(name, usedforsecurity=False)
    begun = time.process_time()
    digest.update(buffer)
    return len(buffer) / 1e6 / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    archive = SafeArchive(arguments.product)
    metadata = read_safe_metadata(archive)
    members = layer_members(metadata.granules[0], BANDS_10M, metadata.name)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.platform()}")
    print(f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}\n")
    print("| image | MB | seconds of a core |\n|---|---|---|")
    total_mb = total_s = 0.0
    for layer, member in members.items():
        size = (arguments.product / member).stat().st_size / 1e6
        took = seconds_of(archive, member, layer, arguments.repeat)
        total_mb, total_s = total_mb + size, total_s + took
        print(f"| {layer} | {size:.0f} | {took:.2f} |")
    print(f"| all | {total_mb:.0f} | {total_s:.2f} |\n")
    print(", ".join(f"{name} {speed_of(name):.0f} MB/s" for name in ("sha3_256", "md5", "sha256")))
    archive.close()


if __name__ == "__main__":
    main()
