"""Examine this machine: versions, operators, GPU, speed, memory, disk, and a few training steps.

Exit code 1 says that something has to be mended; what and how is in the table.

examples:
  python tools/doctor.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser.parse_args()


def main() -> int:
    parse_arguments()
    from vision_mtl.commands.doctor import run_doctor

    return run_doctor()


if __name__ == "__main__":
    run_command(main)
