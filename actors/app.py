"""The application: deployments put together, started and stopped. Only here do plain classes meet Serve."""

import functools
import logging
import shutil
import time
from pathlib import Path
from typing import Any

# isort: off
from actors.environment import HAPROXY_FOLDER  # before ray, which reads on import what this sets on import

# isort: on
import httpx
import ray
from ray import serve

from actors.causes import cause_of
from actors.gatekeeper import Gatekeeper
from actors.gateway import Gateway
from actors.generator import GeneratorActor
from actors.ledger_shard import LedgerShard
from actors.ports import claim_port
from engine.config import Config
from engine.errors import StartFailed
from engine.generators.runtime import text_environment
from engine.records import refuse_other_layouts
from gate.policy import load_policies
from ledger.log import open_keys

APP = "mintage"
TEXT_POOL = "mintage-text"
DRAIN_S = 3  # generators always have a call open at the gateway, so it never drains by itself
ONGOING_MAX = 100_000  # our own intake and pool say no earlier, and say why
START_S_MAX = 300.0
POLL_S = 0.2
POLLS_PER_STATUS = 10  # asking Serve costs much more than asking the gateway
OBJECT_STORE_BYTES = 128 << 20  # hops carry small batches; Ray would take a third of the memory


def build(config: Config) -> serve.Application:
    """The main application: gateway, gatekeeper, ledger shards.

    Raises:
        PolicyError, LedgerError: a policy file is wrong; the ledger's directory does not fit.
    """
    policies = load_policies(config.policies_path)
    keys = open_keys(config.ledger_path, config.ledger.name, config.ledger.num_shards)
    one: dict[str, Any] = {
        "max_ongoing_requests": ONGOING_MAX,
        "ray_actor_options": {"num_cpus": 0},
        "health_check_period_s": 1,
        "graceful_shutdown_timeout_s": DRAIN_S,
    }
    gatekeeper = serve.deployment(**one)(Gatekeeper).bind(policies)
    shards = [
        serve.deployment(name=f"LedgerShard-{number}", **one)(LedgerShard).bind(config, number)
        for number in range(config.ledger.num_shards)
    ]
    gateway = serve.deployment(name="Gateway", **one)(serve.ingress()(Gateway))
    return gateway.bind(config, policies, keys.verifier_keys, gatekeeper, shards)


def build_text_pool(config: Config) -> serve.Application:
    """The text pool: equal generators that come to the gateway for work. An application of its own, so that a pool is
    started, scaled and replaced without touching what holds the requests."""
    generator = serve.deployment(
        name="Generator",
        num_replicas=config.text.num_replicas,
        max_ongoing_requests=ONGOING_MAX,
        health_check_period_s=1,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=DRAIN_S,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": text_environment(config.text.threads)}},
    )(GeneratorActor)
    return generator.bind(config, functools.partial(serve.get_deployment_handle, "Gateway", APP))


def start(config: Config) -> str:
    """Start Ray, Serve and the application on this machine; returns the gateway's URL once it can generate.

    Raises:
        StartFailed: the port is taken, or a part does not come up; the reason is in `what`.
        LayoutUnsupported: another release wrote the ledger.
        PolicyError, LedgerError: see `build`.
    """
    check_port(config.http.host, config.http.port)
    check_writable(config.data_path)
    refuse_other_layouts(config.ledger_path, config.ledger.num_shards)
    application = build(config)
    ray.init(
        address="local",
        # On loopback, Ray's own ports listen there only; they have no business on the network.
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    quiet()
    serve.start(http_options={"host": config.http.host, "port": config.http.port, "location": "HeadOnly"})
    # The pool first: its start takes longest, and the others come up while it imports vLLM.
    pool = serve.RunTarget(build_text_pool(config), name=TEXT_POOL, route_prefix=None)
    serve.run_many([pool], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    try:
        serve.run(application, name=APP, route_prefix="/", blocking=False)
    except RuntimeError as error:
        raise StartFailed(
            f"the application does not come up: {deployment_messages(APP) or error}",
            where="actors",
            fix="Mend the cause and start again; the logs are in /tmp/ray/session_latest/logs/serve.",
        ) from error
    url = f"http://{config.http.host}:{config.http.port}"
    wait_healthy(url)
    return url


def stop() -> None:
    """Stop the application, Serve and Ray."""
    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()
    shutil.rmtree(HAPROXY_FOLDER, ignore_errors=True)


def handle() -> Any:
    """A plain Serve handle of the gateway, for programs inside the same Ray cluster; made and used in an event loop:
    `await handle().mint.remote([...])`.

    They join it with `ray.init(address="auto")`, or, where several clusters run, with its address. They import this
    module before ray: Ray guards the cluster with its user's token, and importing this makes it present the token.
    """
    return serve.get_app_handle(APP)


def check_port(host: str, port: int) -> None:
    """The port must be free before anything is started, and ours from then on."""
    try:
        claim_port(port, host)
    except OSError as error:
        raise StartFailed(
            f"port {port} cannot be taken: {error.strerror}",
            where="http.port",
            fix="Stop what listens there, or choose another port (mintage run --port N).",
        ) from error


def check_writable(path: Path) -> None:
    """The data directory must be ours to write."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartFailed(
            f"cannot write: {error.strerror}", where=str(path), fix="Give it to your user, or set data_dir."
        ) from error


def deployment_messages(name: str) -> str:
    """Why an application has failed, by what Serve says of its deployments; empty while it has not."""
    application = serve.status().applications.get(name)
    if application is None or application.status not in ("DEPLOY_FAILED", "UNHEALTHY"):
        return ""
    told = "\n".join(deployment.message for deployment in application.deployments.values())
    return cause_of(told) or application.message


def wait_healthy(url: str) -> None:
    """Until a generator pulls and HAProxy lets requests through; or until the pool has failed, which says why."""
    until_s = time.monotonic() + START_S_MAX
    last = "no answer"
    num_polls = 0
    with httpx.Client(timeout=5, trust_env=False) as client:
        while time.monotonic() < until_s:
            try:
                response = client.get(f"{url}/healthz")
                if response.is_success:
                    return
                last = response.text
            except httpx.HTTPError as error:
                last = repr(error)
            if num_polls % POLLS_PER_STATUS == 0 and (failure := deployment_messages(TEXT_POOL)):
                raise StartFailed(failure, where="text pool", fix="Mend the cause and start again.")
            num_polls += 1
            time.sleep(POLL_S)
    raise StartFailed(f"not healthy after {START_S_MAX:g} s: {last}", where=url, fix="See the logs in /tmp/ray.")


def quiet() -> None:
    """Serve's progress lines are for developers of Serve."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
