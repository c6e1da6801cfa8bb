"""Runs the published Python clients, unmodified, against a gateway binary.

    python3 run.py --gateway target/debug/nullrun [--versions 0.4.0,0.22.2] [--only kill]
                   [--shards 7]

With --shards the gateway has so many, on threads of their own; else its own default. One line for each check; exit code 1 if any failed. COMPATIBILITY.md beside this
file tells what each version does.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback

import environments
from gateway import Account, Gateway, HangingGateway
from scenarios import ON_A_HANGING_DISK, ONLY_NEWEST, SCENARIOS
from stage import TRAITS, Stage


class Report:
    def __init__(self, only):
        self._only = only
        self.passed = self.failed = 0

    def selected(self, scenarios):
        return {name: play for name, play in scenarios.items() if self._only in name}

    def play(self, name, play, stage):
        started = time.monotonic()
        try:
            play(stage)
        except Exception as failure:
            self.failed += 1
            reason = str(failure) if isinstance(failure, AssertionError) else traceback.format_exc()
            print(f"FAIL {stage.version} {name}: {reason}")
            print(*stage.evidence(), sep="\n", flush=True)
        else:
            self.passed += 1
            secs = time.monotonic() - started
            print(f"ok {stage.version} {name} ({secs:.1f} s)", flush=True)


def run_version(version, binary, layout, report):
    plain = dict(SCENARIOS)
    if version == environments.VERSIONS[-1]:
        plain.update(ONLY_NEWEST)
    for kind, scenarios in ((Gateway, plain), (HangingGateway, ON_A_HANGING_DISK)):
        if chosen := report.selected(scenarios):
            with tempfile.TemporaryDirectory(prefix="nullrun-sdk-") as directory:
                gateway = kind(binary, directory, **layout)
                try:
                    account = Account(gateway)
                    for name, play in chosen.items():
                        report.play(name, play, Stage(version, gateway, account, directory))
                finally:
                    gateway.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--gateway", required=True, help="the binary to test")
    arguments.add_argument("--versions", default=",".join(environments.VERSIONS))
    arguments.add_argument("--only", default="", help="checks whose name contains this")
    arguments.add_argument("--shards", help="so many shards, on threads")
    chosen = arguments.parse_args()
    layout = {}
    if chosen.shards:
        layout = {"NULLRUN_SHARDS": chosen.shards, "NULLRUN_PLACEMENT": "threads"}
    versions = chosen.versions.split(",")
    binary = os.path.abspath(chosen.gateway)
    for unknown in set(versions) - set(TRAITS):
        arguments.error(f"{unknown} is not one of {', '.join(TRAITS)}")
    if not shutil.which("cc"):
        sys.exit("a C compiler (cc) is needed for the hanging disk: apt-get install gcc")
    wanted = [*versions]
    if environments.VERSIONS[-1] in versions:
        wanted.append(environments.WITH_WEBSOCKETS)
    try:
        environments.make(wanted)
    except environments.EnvironmentFailure as failure:
        sys.exit(f"FAIL {failure}")
    report = Report(chosen.only)
    for version in versions:
        run_version(version, binary, layout, report)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed or not report.passed else 0)


if __name__ == "__main__":
    main()
