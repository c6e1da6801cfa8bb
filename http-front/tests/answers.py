"""Compares the answers that tests have seen with the description of the API.

    NULLRUN_TEST_ANSWERS=$PWD/target/answers cargo test --workspace
    python3 http-front/tests/answers.py target/answers http-front/openapi.json

Fails on a documented response that no test has produced, and on an answer that is not documented.
"""
import json
import sys

METHODS = {"get", "put", "post", "delete", "patch"}


def documented(path):
    with open(path, encoding="utf-8") as file:
        paths = json.load(file)["paths"]
    return {
        (method.upper(), route, int(status))
        for route, item in paths.items()
        for method in METHODS & item.keys()
        for status in item[method]["responses"]
    }


def seen(path):
    with open(path, encoding="utf-8") as file:
        lines = (line.split() for line in file)
        return {(method, route, int(status)) for method, route, status in lines}


def main():
    answers, description = seen(sys.argv[1]), documented(sys.argv[2])
    routes = {(method, route) for method, route, _ in description}
    # A route that takes another method, and what is not part of the API (the no-op route of measurements).
    strangers = {one for one in answers - description if one[:2] in routes}
    unseen = description - answers
    for title, found in (("documented, never produced", unseen), ("produced, not documented", strangers)):
        for method, route, status in sorted(found, key=lambda one: (one[2], one[1], one[0])):
            print(f"{title}: {method} {route} {status}")
    print(f"{len(description) - len(unseen)} of {len(description)} documented responses were produced by tests")
    return 1 if unseen or strangers else 0


if __name__ == "__main__":
    sys.exit(main())
