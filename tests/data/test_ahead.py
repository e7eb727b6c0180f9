import gc
import threading
import weakref

import pytest

from alignray.data.ahead import ahead


def test_items_come_in_order_from_one_thread():
    makers = set()

    def numbers():
        for number in range(5):
            makers.add(threading.get_ident())
            yield number

    assert list(ahead(numbers())) == [0, 1, 2, 3, 4]
    assert len(makers) == 1
    assert makers.isdisjoint({threading.get_ident()})
    assert list(ahead([])) == []
    assert list(ahead([None])) == [None]


def test_what_goes_wrong_is_raised_after_the_items_before_it():
    def fails():
        yield 1
        raise KeyboardInterrupt

    items = ahead(fails())
    assert next(items) == 1
    with pytest.raises(KeyboardInterrupt):
        next(items)


def test_two_items_are_held_at_most():
    class Item:
        pass

    made = []

    def items():
        for _ in range(4):
            gc.collect()
            alive = sum(reference() is not None for reference in made)
            assert alive <= 1  # the one that is used
            item = Item()
            made.append(weakref.ref(item))
            yield item
            del item

    for item in ahead(items()):
        assert isinstance(item, Item)
        del item


def test_closing_ends_the_thread_and_leaves_the_rest_unmade():
    made = []
    items = ahead(made.append(number) or number for number in range(9))
    next(items)
    items.close()
    assert len(made) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alignray-ahead")]
