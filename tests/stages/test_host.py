"""parallel_map: results in order, BLAS on one thread, the first error is raised."""

import threading

import pytest
from threadpoolctl import threadpool_info

from bpudeploy.host import parallel_map


def test_results_keep_the_order_of_the_items() -> None:
    def late_if_first(i: int) -> int:
        threading.Event().wait(0.05 if i == 0 else 0.0)
        return i

    assert parallel_map(late_if_first, range(10)) == list(range(10))


def test_blas_has_one_thread_inside_and_its_own_again_after() -> None:
    import numpy  # noqa: F401  its BLAS has to be there to be limited

    def threads(_: int = 0) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    assert before, "NumPy has a BLAS"
    assert all(n == 1 for found in parallel_map(threads, range(3)) for n in found)
    assert threads() == before


def test_an_error_comes_out() -> None:
    def broken(i: int) -> int:
        raise ValueError(f"item {i}")

    with pytest.raises(ValueError, match="item 0"):
        parallel_map(broken, range(3))
