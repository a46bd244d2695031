"""The engine behind the same HTTP API, all in one process and without Ray, for `bench.text --quick`.

python -m bench.embedded PORT DATA_DIRECTORY
"""

import sys

import uvicorn

from actors.api import build_api
from actors.log_api import local
from engine.embedded import Engine


def main() -> None:
    port, data = sys.argv[1:]
    with Engine.open(data) as engine:
        logs = {name: local(log) for name, log in engine.stages.logs.items()}
        api = build_api(engine.service, engine.settlement, logs)
        server = uvicorn.Server(uvicorn.Config(api, port=int(port), log_level="warning"))
        engine.thread.run(server.serve())


if __name__ == "__main__":
    main()
