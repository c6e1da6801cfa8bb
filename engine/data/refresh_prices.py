#!/usr/bin/env python3
"""Make `prices.json`, the model price table of the gateway.

    python3 engine/data/refresh_prices.py                 newest litellm wheel from PyPI
    python3 engine/data/refresh_prices.py --version X     that version of it
    python3 engine/data/refresh_prices.py --from FILE     an already downloaded table, or a wheel
    python3 engine/data/refresh_prices.py --check         validate prices.json, no network

Standard library only. Exits 1 with a message, and leaves prices.json as it was, when anything is
wrong. README.md beside this file says what the table means.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "prices.json"

SOURCE_NAME = "model_prices_and_context_window_backup.json"
UNIT = "nano-dollars per million tokens"
KINDS = ("input", "output", "cache_read", "cache_write", "reasoning")
HEADER_KEYS = ["source", "retrieved", "unit", "provisional", "models"]
ROW_KEYS = ["model", "provider", *KINDS]

# A price per token, in dollars, times this is nano-dollars per million tokens.
NANOS_PER_MILLION = Decimal(10) ** 15
DOLLAR = 10**9
MAX_BYTES = 200_000
I64_MAX = 2**63 - 1

CHAT_MODES = {"chat", "completion", "responses"}
MODES = CHAT_MODES | {"embedding"}

# Above these, dollars per million tokens, a source row is taken for a mistake in units (the source
# has had prices per thousand tokens entered as prices per token) and left out, with a warning.
CEILING_CHAT = 1_000 * DOLLAR
CEILING_EMBEDDING = 10 * DOLLAR

# Models the gateway must know. `None`: any price. Figures (input, output): exactly those; when a
# provider really changes one of them, change it here in the same commit.
REQUIRED = {
    "claude-haiku-4-5": (1_000_000_000, 5_000_000_000),
    "claude-haiku-4-5-20251001": (1_000_000_000, 5_000_000_000),
    "gpt-4o-mini": (150_000_000, 600_000_000),
    "gpt-4o-mini-2024-07-18": (150_000_000, 600_000_000),
    **dict.fromkeys(
        (
            "gpt-4o gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-5 gpt-5-mini gpt-5-nano gpt-5-pro gpt-5.1 "
            "gpt-5.2 o1 o3 o3-mini o3-pro o4-mini text-embedding-3-small text-embedding-3-large "
            "claude-opus-4 claude-opus-4-1 claude-opus-4-5 claude-opus-4-6 claude-sonnet-4 "
            "claude-sonnet-4-5 claude-sonnet-4-6 gemini-2.0-flash gemini-2.5-pro gemini-2.5-flash "
            "gemini-2.5-flash-lite mistral-large-latest mistral-medium-latest mistral-small-latest "
            "codestral-latest deepseek-chat deepseek-reasoner grok-4 command-r-08-2024 "
            "openai/gpt-oss-120b sonar amazon.nova-pro-v1:0"
        ).split()
    ),
}


class Problem(Exception):
    """Something is off; the message is for the person who ran the script."""


# --- which rows of the source, under which name ------------------------------------------------

# Layers, best first. A name already taken by an earlier layer is kept as it is there: the maker's
# own price beats a reseller's. Each entry is: the source's provider -> (prefixes taken off the
# name, our provider name). Two rows of one layer with one name: the dearer is kept.
LAYERS = [
    {  # The makers' own price lists.
        "openai": (("openai/",), "openai"),
        "text-completion-openai": ((), "openai"),
        "anthropic": (("anthropic/",), "anthropic"),
        "gemini": (("gemini/",), "google"),
        "mistral": (("mistral/",), "mistral"),
        "cohere": (("cohere/",), "cohere"),
        "cohere_chat": (("cohere/",), "cohere"),
        "deepseek": (("deepseek/",), "deepseek"),
        "xai": (("xai/",), "xai"),
        "perplexity": (("perplexity/",), "perplexity"),
        "amazon_nova": (("amazon-nova/",), "amazon"),
        "ai21": ((), "ai21"),
        "meta": (("meta/",), "meta"),
        "minimax": (("minimax/",), "minimax"),
        "moonshot": (("moonshot/",), "moonshot"),
        "voyage": (("voyage/",), "voyage"),
        "zai": (("zai/",), "zai"),
    },
    {  # Google's cloud, for Google's models that the layer above no longer lists.
        "vertex_ai": (("vertex_ai/",), "google"),
        "vertex_ai-language-models": (("vertex_ai/",), "google"),
        "vertex_ai-embedding-models": (("vertex_ai/",), "google"),
        "vertex_ai-text-models": (("vertex_ai/",), "google"),
    },
    {  # Bedrock's own names: `anthropic.claude-...-v1:0`, `us.amazon.nova-pro-v1:0`.
        "bedrock": ((), "amazon"),
        "bedrock_converse": ((), "amazon"),
        "bedrock_mantle": (("bedrock_mantle/",), "amazon"),
    },
    {
        "azure": (("azure/",), "azure"),
        "azure_text": (("azure/",), "azure"),
    },
    {"groq": (("groq/",), "groq")},
    {"together_ai": (("together_ai/",), "together")},
    {"azure_ai": (("azure_ai/",), "azure")},
    {"vertex_ai-anthropic_models": (("vertex_ai/",), "google")},
]
# Layers 0 .. OWN_LAYERS-1 list only models of the listing company.
OWN_LAYERS = 2
# Hosts whose dearer or cheaper price for a taken name is kept too, under the prefixed name.
KEEP_PREFIXED = {"azure", "azure_text", "groq", "together_ai", "azure_ai"}

# Who made a model, by its bare name, for rows that only a host still lists.
MAKERS = [
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"(gpt-(?!35|oss)|o[134](-|$)|codex-)"), "openai"),
    (re.compile(r"gem(ini|ma)-"), "google"),
    (re.compile(r"grok-"), "xai"),
    (re.compile(r"(mistral|ministral|codestral|magistral|devstral|pixtral|voxtral)-"), "mistral"),
    (re.compile(r"(command-|cohere-)", re.I), "cohere"),
    (re.compile(r"deepseek-", re.I), "deepseek"),
    (re.compile(r"kimi-"), "moonshot"),
]

DATED = re.compile(r"(?:-(\d{8}|\d{4}-\d{2}-\d{2})|@(\d{8}))$")
BEDROCK_CLAUDE = re.compile(r"anthropic\.(claude-[^:]+?-\d{8})-v\d+(?::\d+)?$")


def wanted(source_provider, name):
    """Whether a name, prefix already off, is one that a response or a request would carry."""
    if source_provider in ("groq", "together_ai"):
        # Size classes ("together-ai-4.1b-8b") are not models.
        return not name.startswith("together-ai-")
    if "/" in name:
        # Regions, image sizes, commitments, resold models.
        return False
    if source_provider == "perplexity":
        # The rest of the list is open models that it stopped hosting.
        return name.startswith(("sonar", "pplx-embed-"))
    if source_provider == "vertex_ai":
        return name.startswith(("gemini-", "gemma-"))
    if source_provider == "vertex_ai-anthropic_models":
        return "@" in name  # The other names are Anthropic's.
    if source_provider == "azure":
        return name != "ada"
    return True


def to_nanos(value, where, notes):
    """A price in dollars per token (Decimal or int, from the literal text) as our integer."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise Problem(f"{where}: not a number: {value!r}")
    exact = Decimal(value) * NANOS_PER_MILLION
    if exact < 0:
        raise Problem(f"{where}: negative price {value}")
    whole = exact.to_integral_value(rounding=ROUND_HALF_UP)
    if whole != exact:
        notes.append(f"rounded half up: {where}: {value} is {exact} {UNIT}")
    if whole > I64_MAX:
        raise Problem(f"{where}: price {value} is out of range")
    return int(whole)


def price_row(key, entry, notes):
    """The five prices of one source row; None when it has no usable price per token."""
    def read(field):
        value = entry.get(field)
        return None if value is None else to_nanos(value, f"{key}.{field}", notes)

    embedding = entry["mode"] == "embedding"
    price_in = read("input_cost_per_token")
    price_out = read("output_cost_per_token")
    if embedding and price_out is None:
        price_out = 0
    # Zero is never a price here: such a row is a preview, a price per request, or a router's fee
    # on top of another model's price. Left out, the model is charged the provisional price.
    if not price_in or price_out is None or (not embedding and not price_out):
        if price_in is not None or price_out:
            notes.append(f"left out, no price per token or a zero one: {key}")
        return None
    if max(price_in, price_out) > (CEILING_EMBEDDING if embedding else CEILING_CHAT):
        notes.append(f"left out, implausibly dear, wrong units?: {key}")
        return None
    # A zero cache or reasoning price counts as missing, for the same reason.
    return {
        "input": price_in,
        "output": price_out,
        "cache_read": read("cache_read_input_token_cost") or price_in,
        "cache_write": read("cache_creation_input_token_cost") or price_in,
        "reasoning": read("output_cost_per_reasoning_token") or price_out,
    }


def maker_of(name, default):
    for pattern, maker in MAKERS:
        if pattern.match(name):
            return maker
    return default


def dearness(prices):
    return tuple(prices[kind] for kind in ("output", "input", "cache_write", "cache_read", "reasoning"))


def is_long_context(entry):
    return any(
        re.match(r"(input|output)_cost_per_token_above_\d+k_tokens$", field) for field in entry
    )


def build(table, today):
    """Rows by model, the provisional prices, notes and the names with a dearer long context."""
    notes, tiered = [], set()
    models = {}
    samples = []  # (provider, prices) of the makers' current chat models.

    def put(name, provider, prices):
        models[name] = {"model": name, "provider": provider, **prices}

    for rank, layer in enumerate(LAYERS):
        found = {}
        for key, entry in table.items():
            if not isinstance(entry, dict) or entry.get("mode") not in MODES:
                continue
            source_provider = entry.get("litellm_provider")
            if source_provider not in layer:
                continue
            prefixes, provider = layer[source_provider]
            name = key
            for prefix in prefixes:
                name = name.removeprefix(prefix)
            if not wanted(source_provider, name):
                continue
            prices = price_row(key, entry, notes)
            if prices is None:
                continue
            if is_long_context(entry):
                tiered.add(name)
            before = found.get(name)
            if before and before[1] != prices:
                notes.append(f"two prices in one list, the dearer kept: {name}")
            if before is None or dearness(prices) > dearness(before[1]):
                found[name] = (provider, prices, key, source_provider)
            if rank == 0 and entry["mode"] in CHAT_MODES and not DATED.search(name):
                retired = entry.get("deprecation_date")
                if not name.startswith("ft:") and not (retired and str(retired) < today):
                    samples.append((provider, tuple(prices.values())))
        for name, (provider, prices, key, source_provider) in found.items():
            if name not in models:
                own = rank < OWN_LAYERS or "@" in name
                put(name, provider if own else maker_of(name, provider), prices)
                continue
            taken = {kind: models[name][kind] for kind in KINDS}
            if source_provider in KEEP_PREFIXED and key != name and taken != prices:
                put(key, provider, prices)

    # Claude models that only Bedrock still lists, under Anthropic's own name for them.
    for name in sorted(models):
        match = BEDROCK_CLAUDE.match(name)
        if match and match[1] not in models:
            put(match[1], "anthropic", {kind: models[name][kind] for kind in KINDS})

    # The undated name of every dated model, at the price of the latest date.
    latest = {}
    for name in sorted(models):
        match = DATED.search(name)
        if match:
            base, date = name[: match.start()], (match[1] or match[2]).replace("-", "")
            if base not in models and date > latest.get(base, ("", ""))[0]:
                latest[base] = (date, name)
    for base, (_, name) in latest.items():
        row = models[name]
        put(base, maker_of(base, row["provider"]), {kind: row[kind] for kind in KINDS})
        if name in tiered:
            tiered.add(base)

    distinct = set(samples)
    return models, provisional_price(distinct), notes, tiered & set(models), len(distinct)


def provisional_price(samples):
    """What a token of an unknown model costs.

    The 90th percentile (nearest rank) of the makers' current chat prices, input and output
    separately, rounded up to a whole dollar per million tokens. Several names of one maker at one
    price count once (one maker lists forty aliases); dated snapshots, fine-tunes, retired models,
    resellers and regions do not count at all, since they repeat the same models. So nine in ten
    known prices are no higher, and an unknown model eats a budget faster than it should rather
    than slower. The very dearest (the "pro" models, up to hundreds of dollars) are not followed:
    a budget of a few dollars would then stop at the first call of any new model. No cache discount
    is assumed, and writing to a cache is taken to cost a quarter more than input, as it does where
    it is priced apart.
    """
    def percentile(kind):
        values = sorted(prices[KINDS.index(kind)] for _, prices in samples)
        return values[-(-len(values) * 9 // 10) - 1]

    def whole_dollars(nanos):
        dollars = (Decimal(nanos) / DOLLAR).to_integral_value(rounding=ROUND_CEILING)
        return int(dollars) * DOLLAR

    if not samples:
        raise Problem("no current chat model in the source: no provisional price")
    price_in = whole_dollars(percentile("input"))
    price_out = whole_dollars(percentile("output"))
    return {
        "input": price_in,
        "output": price_out,
        "cache_read": price_in,
        "cache_write": whole_dollars(price_in * 5 // 4),
        "reasoning": price_out,
    }


# --- the file ----------------------------------------------------------------------------------

def render(document):
    """The text of prices.json: a header line, one line a model, an end line."""
    def compact(value):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=True)

    head = compact({key: document[key] for key in HEADER_KEYS[:-1]})
    rows = ",\n".join(compact(row) for row in document["models"])
    return f'{head[:-1]},"models":[\n{rows}\n]}}\n'


def no_repeats(pairs):
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise Problem(f"a key is repeated in one object: {keys}")
    return dict(pairs)


def reject_constant(text):
    raise Problem(f"not a price: {text}")


def validate(text):
    """The document in `text`, or Problem. Used on what is about to be written, and by --check."""
    try:
        document = json.loads(text, object_pairs_hook=no_repeats, parse_constant=reject_constant)
    except ValueError as error:
        raise Problem(f"not JSON: {error}") from error
    if not isinstance(document, dict) or list(document) != HEADER_KEYS:
        raise Problem(f"the top-level keys are not {HEADER_KEYS}")
    if not re.match(r"PyPI litellm \S+, " + re.escape(SOURCE_NAME) + "$", str(document["source"])):
        raise Problem(f"unexpected source: {document['source']!r}")
    if not re.match(r"\d{4}-\d{2}-\d{2}$", str(document["retrieved"])):
        raise Problem(f"retrieved is not a date: {document['retrieved']!r}")
    try:
        datetime.date.fromisoformat(document["retrieved"])
    except ValueError as error:
        raise Problem(f"retrieved is not a date: {document['retrieved']!r}") from error
    if document["unit"] != UNIT:
        raise Problem(f"unit is not {UNIT!r}")

    provisional = document["provisional"]
    if not isinstance(provisional, dict) or list(provisional) != list(KINDS):
        raise Problem(f"provisional does not have exactly {KINDS}")
    for kind, value in provisional.items():
        if type(value) is not int or not DOLLAR <= value <= CEILING_CHAT or value % DOLLAR:
            raise Problem(f"provisional {kind} is not a plausible whole-dollar price: {value!r}")

    rows = document["models"]
    if not isinstance(rows, list) or not rows:
        raise Problem("no models")
    names = []
    for row in rows:
        if not isinstance(row, dict) or list(row) != ROW_KEYS:
            raise Problem(f"a model line does not have exactly {ROW_KEYS}: {row!r}")
        name = row["model"]
        if not isinstance(name, str) or not re.match(r"[!-~]+$", name):
            raise Problem(f"bad model name: {name!r}")
        if not isinstance(row["provider"], str) or not re.match(r"[a-z0-9]+$", row["provider"]):
            raise Problem(f"{name}: bad provider {row['provider']!r}")
        for kind in KINDS:
            if type(row[kind]) is not int or not 0 <= row[kind] <= CEILING_CHAT:
                raise Problem(f"{name}: {kind} is not a plausible integer price: {row[kind]!r}")
        # Only embeddings have no output, and so an output price of zero.
        if 0 in (row["input"], row["cache_read"], row["cache_write"]):
            raise Problem(f"{name}: a zero input price")
        if (row["output"] == 0) != (row["reasoning"] == 0):
            raise Problem(f"{name}: only one of output and reasoning is zero")
        names.append(name)
    for before, after in zip(names, names[1:]):
        if before == after:
            raise Problem(f"duplicate model: {after}")
        if before > after:
            raise Problem(f"not sorted by model: {before} before {after}")

    known = {row["model"]: row for row in rows}
    for name, figures in REQUIRED.items():
        if name not in known:
            raise Problem(f"required model is missing: {name}")
        have = (known[name]["input"], known[name]["output"])
        if figures and have != figures:
            raise Problem(f"{name}: input and output are {have}, must be {figures}")
        if have[1] == 0 and "embedding" not in name:
            raise Problem(f"{name}: a zero output price")
    if render(document) != text:
        raise Problem("not laid out as this script writes it (one model a line): run it again")
    if len(text) > MAX_BYTES:
        raise Problem(f"{len(text)} bytes, more than {MAX_BYTES}: narrow down LAYERS")
    return document


def self_test():
    """The conversion and the layout on known figures."""
    notes = []
    for literal, expected in (
        ("1.5e-07", 150_000_000),
        ("0.00000015", 150_000_000),
        ("1e-06", 1_000_000_000),
        ("0.0006", 600_000_000_000),
        ("3.75e-08", 37_500_000),
        ("6.25e-09", 6_250_000),
        ("0", 0),
    ):
        value = json.loads(literal, parse_float=Decimal)
        if to_nanos(value, literal, notes) != expected:
            raise Problem(f"self-test: {literal} does not become {expected}")
    if notes:
        raise Problem(f"self-test: exact prices were rounded: {notes}")
    for literal, expected in (("1.0000000005e-06", 1_000_000_001), ("1.0000000004e-06", 1_000_000_000)):
        if to_nanos(Decimal(literal), literal, notes) != expected:
            raise Problem(f"self-test: {literal} is not rounded half up to {expected}")
    if len(notes) != 2:
        raise Problem("self-test: rounding was not reported")
    try:
        to_nanos(Decimal("-1e-06"), "negative", notes)
    except Problem:
        pass
    else:
        raise Problem("self-test: a negative price was let through")
    entry = {"mode": "chat", "input_cost_per_token": Decimal("1e-06"), "output_cost_per_token": Decimal("4e-06")}
    if list(price_row("x", entry, notes).values()) != [10**9, 4 * 10**9, 10**9, 10**9, 4 * 10**9]:
        raise Problem("self-test: missing prices are not filled in from input and output")
    if price_row("x", {**entry, "output_cost_per_token": 0}, notes) is not None:
        raise Problem("self-test: a zero output price was let through")


# --- the source --------------------------------------------------------------------------------

def download(version, directory):
    """The wheel's path."""
    wanted_package = f"litellm=={version}" if version else "litellm"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-q", "-d", directory, wanted_package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Problem(f"cannot run pip: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Problem(f"pip could not download {wanted_package} from PyPI: {last}")
    wheels = sorted(Path(directory).glob("litellm-*.whl"))
    if len(wheels) != 1:
        raise Problem(f"expected one litellm wheel, pip downloaded {len(wheels)}")
    return wheels[0]


def read_wheel(path):
    """The price table's text in a wheel, and the wheel's version."""
    try:
        with zipfile.ZipFile(path) as wheel:
            found = [name for name in wheel.namelist() if name.rsplit("/", 1)[-1] == SOURCE_NAME]
            if len(found) != 1:
                raise Problem(f"{path.name}: expected one {SOURCE_NAME}, found {len(found)}")
            text = wheel.read(found[0]).decode("utf-8")
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {path.name}: {error}") from error
    return text, path.name.split("-")[1]


def read_source(args):
    """The source table and its version."""
    if args.source_file:
        path = Path(args.source_file)
        if not path.is_file():
            raise Problem(f"no such file: {path}")
        if path.suffix == ".whl":
            text, version = read_wheel(path)
            if args.version not in (None, version):
                raise Problem(f"{path.name} is version {version}, not {args.version}")
        else:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise Problem(f"cannot read {path}: {error}") from error
            version = args.version or "unknown-version"
    else:
        with tempfile.TemporaryDirectory() as directory:
            text, version = read_wheel(download(args.version, directory))
    try:
        # Numbers stay as written: a binary float would not convert exactly.
        table = json.loads(text, parse_float=Decimal, parse_constant=reject_constant)
    except ValueError as error:
        raise Problem(f"the price table is not JSON: {error}") from error
    if not isinstance(table, dict) or not table:
        raise Problem("the price table is empty")
    return table, version


# --- commands ----------------------------------------------------------------------------------

def show_changes(old, new):
    before = {row["model"]: row for row in old["models"]} if old else {}
    after = {row["model"]: row for row in new["models"]}
    added = sorted(after.keys() - before.keys())
    removed = sorted(before.keys() - after.keys())
    changed = []
    for name in sorted(after.keys() & before.keys()):
        for key in ROW_KEYS[1:]:
            if before[name][key] != after[name][key]:
                changed.append(f"  changed {name} {key}: {before[name][key]} -> {after[name][key]}")
    models_changed = len({line.split()[1] for line in changed})
    print(f"added {len(added)}, removed {len(removed)}, changed {models_changed}")
    if old:
        for name in added:
            print(f"  added {name}")
    for name in removed:
        print(f"  removed {name}")
    for line in changed:
        print(line)
    if old and old["provisional"] != new["provisional"]:
        print(f"  provisional: {old['provisional']} -> {new['provisional']}")


def refresh(args):
    self_test()
    table, version = read_source(args)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    models, provisional, notes, tiered, sampled = build(table, today)
    document = {
        "source": f"PyPI litellm {version}, {SOURCE_NAME}",
        "retrieved": today,
        "unit": UNIT,
        "provisional": provisional,
        "models": [models[name] for name in sorted(models)],
    }
    if not document["models"]:
        raise Problem("no model was found in the source: has its layout changed?")
    text = render(document)
    validate(text)

    old = None
    if TABLE.exists():
        try:
            old = json.loads(TABLE.read_text(encoding="utf-8"))
            show_changes(old, document)
        except (ValueError, KeyError, TypeError):
            print("the old prices.json is unreadable; every model counts as added")
            show_changes(None, document)
    else:
        show_changes(None, document)
    for note in notes:
        print(f"  note: {note}")

    # Written beside it and renamed, so that a failure leaves the old file whole.
    fresh = TABLE.with_suffix(".json.new")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    os.replace(fresh, TABLE)

    dollars = ", ".join(f"{kind} ${value // DOLLAR}" for kind, value in provisional.items())
    print(f"{document['source']}: {len(models)} models, {len(text)} bytes")
    print(f"provisional, per million tokens, from {sampled} current chat prices: {dollars}")
    print(f"{len(tiered)} models cost more in a long context; the table has their short-context price")


def check():
    self_test()
    if not TABLE.exists():
        raise Problem(f"{TABLE.name} is missing: run this script without --check")
    try:
        text = TABLE.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"{TABLE.name} is not UTF-8: {error}") from error
    document = validate(text)
    print(f"{TABLE.name} is valid: {len(document['models'])} models, {document['source']}, {document['retrieved']}")


def main():
    parser = argparse.ArgumentParser(description="Make or check the model price table, prices.json.")
    parser.add_argument("--version", help="the litellm version to take (default: the newest)")
    parser.add_argument("--from", dest="source_file", metavar="FILE", help="read this price table or wheel instead of downloading")
    parser.add_argument("--check", action="store_true", help="validate prices.json, without network")
    args = parser.parse_args()
    if args.check and (args.version or args.source_file):
        parser.error("--check takes no other option")
    try:
        check() if args.check else refresh(args)
    except Problem as problem:
        print(f"refresh_prices: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
