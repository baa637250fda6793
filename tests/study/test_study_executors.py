"""Studies: threads, processes and clusters give the same table."""

import dataclasses
import os
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from tables import assert_same_tables

from moxi_lite.study import run_study

MODES = ["insertion", "deletion"]


def test_threads_give_the_same_table(tiny_vit, photos, tmp_path):
    methods = ["moxi", "gradcam", "rollout", "random"]  # two of them hook into the model
    expected = run_study(photos, tiny_vit, methods, MODES, tmp_path / "a").table
    with ThreadPoolExecutor(2) as executor:
        table = run_study(photos, tiny_vit, methods, MODES, tmp_path / "b", executor).table
    assert_same_tables(table, expected)


@pytest.mark.slow
def test_processes_give_the_same_table(own_model, photos, tmp_path):
    methods = ["moxi", "random"]
    expected = run_study(photos, own_model.tiny, methods, MODES, tmp_path / "a").table
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        with pytest.warns(RuntimeWarning, match="1 of 6 images failed"):
            result = run_study(
                [broken, *photos], own_model.tiny, methods, MODES, tmp_path / "b", executor
            )
    assert_same_tables(result.table, expected)


@pytest.mark.slow
def test_a_local_dask_cluster_gives_the_same_table(own_model, photos, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    methods = ["moxi", "random"]
    expected = run_study(photos, own_model.tiny, methods, MODES, tmp_path / "a").table
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        executor = client.get_executor()
        table = run_study(photos, own_model.tiny, methods, MODES, tmp_path / "b", executor).table
        # again, into another folder: Dask must not answer from memory
        arguments = (own_model.tiny, methods, MODES, tmp_path / "c", executor)
        again = run_study(photos, *arguments).table
    assert_same_tables(table, expected)
    assert_same_tables(again, expected)


@pytest.mark.slow
def test_a_worker_that_dies_is_told(own_model, photos, tmp_path):
    code = "import os\ndef deadly():\n    import own_model\n    model = own_model.tiny()\n"
    code += "    if os.environ.get('DEADLY') != str(os.getpid()):\n        os._exit(3)\n"
    code += "    return model\n"
    (Path(own_model.__file__).parent / "deadly_model.py").write_text(code)
    import deadly_model

    os.environ["DEADLY"] = str(os.getpid())
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            with pytest.raises(RuntimeError, match="a worker process died"):
                run_study(
                    photos, deadly_model.deadly, ["random"], MODES, tmp_path / "out", executor
                )
    finally:
        del os.environ["DEADLY"]


def test_processes_need_a_model_that_travels(tiny_vit, photos, tmp_path):
    arguments = (["random"], ["insertion"], tmp_path / "out")
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        with pytest.raises(TypeError, match="pass its name, or a function that returns it"):
            run_study(photos, tiny_vit, *arguments, executor)
        with pytest.raises(TypeError, match="as a Classifier, not the VisionTransformer itself"):
            run_study(photos, tiny_vit.module, *arguments, executor)
    with ProcessPoolExecutor(1, get_context("fork")) as executor:
        with pytest.raises(ValueError, match="spawn"):
            run_study(photos, "vit_tiny_patch16_224", *arguments, executor)


class Inline:
    """An executor of no known kind that runs jobs at once."""

    def submit(self, function, job):
        future = Future()
        future.set_result(function(job))
        return future


def test_other_weights_on_a_worker_are_a_failure(photos, tmp_path, own_model, monkeypatch):
    here = own_model.tiny()
    elsewhere = dataclasses.replace(here, weights_sha256="0" * 64)
    models = iter([here, elsewhere])  # what the caller looks at, then what the worker loads
    load = lambda name, device: next(models)  # noqa: E731
    monkeypatch.setattr("moxi_lite.study.settings.load_model", load)
    with pytest.warns(RuntimeWarning, match="has other weights here"):
        run_study(photos[:1], "any name", ["random"], MODES, tmp_path / "out", Inline())
