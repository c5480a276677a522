"""A store for all tests of this folder, with a bucket; its proxy has no faults until a test plans some."""

import logging
import threading
from collections.abc import Iterator

import pytest
from faulty_store import Store, no_fault, proxy_for


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Store, str]]:
    """The store, and the URL of the proxy before it."""
    pytest.importorskip("flask_cors", reason="needs moto's server: pip install 'moto[s3]' flask flask-cors")
    server_module = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[s3]' flask flask-cors")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    store = Store(server.get_host_and_port())
    proxy = proxy_for(store)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield store, f"http://127.0.0.1:{proxy.server_port}"
    proxy.shutdown()
    proxy.server_close()
    thread.join()
    server.stop()


@pytest.fixture
def store(
    servers: tuple[Store, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Store]:
    """The store, empty but for the bucket "bucket"; what the environment says leads to it."""
    from pyarrow import fs

    from babyllm.object_store import transfers

    found, url = servers
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "name-of-key",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfers, "FIRST_WAIT_S", 0.01)
    found.plan = no_fault
    system = fs.S3FileSystem(endpoint_override=url.partition("://")[2], scheme="http", allow_bucket_creation=True)
    system.create_dir("bucket")
    system.delete_dir_contents("bucket")
    found.seen.clear()
    yield found
    found.plan = no_fault
