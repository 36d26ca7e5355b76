"""The report's page: it opens offline, holds no foreign markup, and says what is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from gate2static.report.page import all_pictures, render_page, trade_off_pictures


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in {"src", "href", "srcset", "data"}]


def _page(content):
    return render_page(content, all_pictures(content))


def test_page_opens_offline(content):
    page = _page(content)
    parser = _Addresses()
    parser.feed(page)
    assert len(parser.found) == 3, "two trade-offs and one gate pattern"
    assert all(address.startswith("data:image/png;base64,") for address in parser.found)
    assert "http" not in page
    assert "@import" not in page


def test_what_scrolls_can_be_reached_without_a_mouse(content):
    page = _page(content)
    scrolling = re.findall(r'<\w+ class="(?:wide|one)"[^>]*>', page)
    assert len(scrolling) == 3, "two tables and one gate pattern"
    assert all('tabindex="0"' in tag for tag in scrolling)
    assert page.count("<main>") == page.count("</main>") == 1


def test_names_from_files_cannot_put_markup_on_the_page(content):
    page = _page(replace(content, title="<script>alert(1)</script>"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_page_says_what_is_missing_and_what_failed(content):
    separate, *others = content.rows
    failed = replace(separate, checks=(replace(separate.checks[0], passed=False),))
    page = _page(replace(content, rows=(failed, *others)))
    assert "gated-0.1 is not trained yet" in page
    assert "DIFFERENT" in page


def test_a_run_with_nothing_but_names_still_makes_a_page(content):
    bare = replace(content, rows=(content.rows[3],), latency_setting="", missing=())
    assert not re.search(r"<img|<h2>(Accuracy|What)", _page(bare))


def test_no_trade_off_is_drawn_from_one_network(content):
    alone = replace(content, rows=content.rows[:1])
    assert list(trade_off_pictures(alone)) == []
