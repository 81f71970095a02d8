import threading
import time

import pytest

from mindpress.engine.deadline import deadline


def for_ever():
    while True:
        pass


def test_a_loop_without_an_end_ends():
    with pytest.raises(TimeoutError), deadline(0.1):
        for_ever()


def test_a_loop_in_another_thread_ends_and_this_one_goes_on():
    ended = []

    def work():
        try:
            with deadline(0.1):
                for_ever()
        except TimeoutError:
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert ended == [True]


def test_what_is_in_time_is_left_alone_afterwards_too():
    with deadline(0.1):
        found = 1 + 1
    time.sleep(0.3)
    assert found == 2


def test_an_error_of_the_code_comes_through():
    with pytest.raises(KeyError), deadline(5.0):
        {}["x"]
