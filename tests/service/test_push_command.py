"""`geoshift push` as people run it: processes of their own, a service that is killed and started again."""

import json

import pytest

from device_profiles import loader
from runtime.plan import bundle as bundles
from runtime.plan.fit import peak_bytes
from tests.runtime.bundles import profile
from tests.runtime.pushing import WORLD, bundle_id, written
from tests.service.test_serve_command import geoshift, serving, typed


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return written(tmp_path_factory.mktemp("push") / "new")


def test_a_plan_is_pushed_and_is_at_work_after_the_service_was_killed(tmp_path, plan, new):
    where = ("--unix", tmp_path / "sock", "--state", tmp_path / "board", "--no-auth")
    with serving(tmp_path, plan, *where) as (process, said):
        assert (said["bundle"], said["release"]) == (bundle_id(plan), 1)
        wrong = geoshift(tmp_path, "push", written(tmp_path / "wrong", wrong=True), said["url"])
        assert wrong.returncode == 1
        assert "rolled-back: " in wrong.stdout
        assert "canary: found 0 right answers" in wrong.stdout
        assert f"bundle {bundle_id(plan)[:16]} is at work as before" in wrong.stdout
        done = geoshift(tmp_path, "push", new, said["url"], "--json")
        assert done.returncode == 0, done.stderr
        end = json.loads(done.stdout)
        assert (end["id"], end["outcome"], end["release"], end["gap_s"]) == (bundle_id(new), "committed", 2, None)
        again = geoshift(tmp_path, "push", new, said["url"])
        assert (again.returncode, "at work already" in again.stdout) == (0, True)
        process.kill()  # as a power cut does
        process.wait()
    with serving(tmp_path, plan, *where) as (_, said):
        assert (said["bundle"], said["release"]) == (bundle_id(new), 2)
        lines = geoshift(tmp_path, "logs", said["url"], "--json").stdout.splitlines()
        (why,) = [one for one in map(json.loads, lines) if one["event"].startswith("another bundle than")]
        assert "pushed and committed here: release 2" in why["fields"]["why"]
        assert str(tmp_path / "board") not in why["fields"]["why"]
        older = geoshift(tmp_path, "push", plan, said["url"])
        assert (older.returncode, "expected at least 2, which this device has committed" in older.stderr) == (1, True)
        shown = geoshift(tmp_path, "status", said["url"]).stdout
        assert bundle_id(new)[:16] in shown
    with serving(tmp_path, plan, *where, "--migrate") as (_, said):
        assert (said["bundle"], said["release"]) == (bundle_id(plan), 1)


def test_a_gap_is_asked_for(tmp_path, plan, new):
    tight = profile(**WORLD, memory__weights_bytes=peak_bytes(bundles.read(plan), 1, False) + 400)
    (tmp_path / "tight.yaml").write_text(json.dumps(loader.as_builtins(tight)))
    where = ("--unix", tmp_path / "sock", "--state", tmp_path / "board", "--no-auth", "--policy", "in-place")
    with serving(tmp_path, plan, *where, "--profile", tmp_path / "tight.yaml") as (_, said):
        refused = geoshift(tmp_path, "push", new, said["url"])
        assert refused.returncode == 1
        assert "would not answer for about" in refused.stderr
        assert "--allow-gap" in refused.stderr
        status, shown = typed(tmp_path, "", "push", str(new), said["url"], asks=b"Go on? [y/N]: ", says=b"n\n")
        assert (status, "nothing was changed" in shown) == (1, True), shown
        status, shown = typed(tmp_path, "", "push", str(new), said["url"], asks=b"Go on? [y/N]: ", says=b"y\n")
        assert status == 0, shown
        assert "committed in mode C1" in shown
        assert "did not answer for" in shown


def test_mistakes_end_with_a_sentence(tmp_path, new):
    for arguments, said in (
        (("push", tmp_path / "none", "nowhere"), "geoshift login nowhere"),
        (("push", new, f"unix:{tmp_path / 'sock'}"), "geoshift login"),
        (("push", new), "Missing argument"),
    ):
        done = geoshift(tmp_path, *arguments)
        assert done.returncode in (1, 2), arguments
        assert said in done.stdout + done.stderr, done.stderr
        assert "Traceback" not in done.stderr
