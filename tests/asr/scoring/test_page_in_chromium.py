"""The page of a scoring in a browser: it opens without a complaint, plays, sorts, filters, and obeys the keyboard."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.asr.scoring.error_page import PathToken, Recording, Report, System, write_score_page
from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, evaluate, judge
from tests.asr.scoring.chromium import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

HOSTILE = (
    "</script><script>document.title = 'broken'</script> <img/src=x/onerror=alert(1)> <img src=x onerror=alert(1)>"
)
HOSTILE_ID = "hostile<img/src=x>"
TONE_HZ = 1000.0
TEXTS = {f"u{i:03d}": "one two three four" for i in range(150)} | {"arabic": "السلام عليكم", HOSTILE_ID: "a <i>b</i> c"}
FIRST = {
    **TEXTS,
    "u001": "one too three",
    "u002": "one two three four five",
    "u003": "",
    "u010": "one too three four",
    "u011": "one two too four",
    "arabic": "السلام",
    HOSTILE_ID: HOSTILE,
}
SECOND = {**TEXTS, "u002": "one three"}
CONFIDENCES = {"u001": 0.2, "u003": 0.1, "u010": 0.4, "u020": 0.9}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of two systems on 152 utterances, one of them with the sound of a tone."""
    rows = [
        Reference(id=key, text=text, groups={"sex": "f" if place % 2 else "m", "place": HOSTILE})
        for place, (key, text) in enumerate(TEXTS.items())
    ]
    first, second = (evaluate(rows, heard, ScoreConfig(samples=50)) for heard in (FIRST, SECOND))
    sound = io.BytesIO()
    tone = 0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(24_000) / 16_000)
    soundfile.write(sound, tone, 16_000, format="FLAC")
    report = Report(
        name=HOSTILE,
        references=rows,
        systems=[System(name="one", evaluation=first), System(name="two", evaluation=second)],
        differences=judge(rows, first, second),
        durations_s={row.id: 1.5 for row in rows},
        confidences=CONFIDENCES,
        recordings={
            "u003": Recording(flac=sound.getvalue(), path=[PathToken("o", 10, 5, 0.9), PathToken("n", 40, 1, 0.5)])
        },
    )
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_score_page(report, out)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """Give the page, fresh; in the end nothing may have been said or asked for."""
    browser.said.clear()
    browser.asked.clear()
    browser.open(page)
    yield browser
    assert browser.said == []
    assert [each for each in browser.asked if not each.startswith(("blob:", "data:", page.as_uri()))] == []


def ids(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('#rows tbody .id bdi')].map(each => each.textContent)")


def choose(browser: Browser, select: str, value: str) -> None:
    browser.run(f"{{ const e = {select}; e.value = {value!r}; e.dispatchEvent(new Event('change')); }}")


def column(browser: Browser, name: str) -> Sequence[str]:
    place = browser.run(f"[...document.querySelectorAll('#rows th')].findIndex(e => e.textContent === {name!r})")
    return browser.run(f"[...document.querySelectorAll('#rows .figures')].map(e => e.cells[{place}].textContent)")


def sort_by(browser: Browser, name: str) -> None:
    browser.run(f"[...document.querySelectorAll('#rows th button')].find(e => e.textContent === {name!r}).click()")


def test_it_opens_with_the_worst_first_and_texts_stay_texts(opened: Browser) -> None:
    assert ids(opened)[:4] == [HOSTILE_ID, "u003", "arabic", "u001"]
    assert opened.run("document.title") == f"Score: {HOSTILE}"
    assert opened.run("document.querySelectorAll('img, i').length") == 0
    assert "(1)</script>" not in opened.run("document.body.innerHTML")
    assert "onerror=alert(1)>" in opened.run("document.querySelector('#rows').textContent")


def test_the_sound_plays_and_its_spectrogram_and_tokens_are_in_place(opened: Browser) -> None:
    opened.run("document.querySelector('#row-3 button').click()")
    opened.wait("document.querySelector('audio').readyState > 0")
    assert opened.run("document.querySelector('audio').duration") == pytest.approx(1.5, abs=0.01)
    opened.run("document.querySelector('audio').play()")
    opened.wait("document.querySelector('audio').currentTime > 0.2")
    opened.wait("document.querySelector('.spectrum canvas').width === 296")  # frames of 25 ms every 5 ms
    loudest = opened.run("""(() => {
        const canvas = document.querySelector('.spectrum canvas'), pen = canvas.getContext('2d');
        const ink = [...pen.getImageData(150, 0, 1, canvas.height).data].filter((_, i) => i % 4 === 3);
        return (canvas.height - 1 - ink.indexOf(Math.max(...ink)) + .5) / canvas.height; })()""")
    assert 700 * (10 ** (loudest * 2840.0 / 2595) - 1) == pytest.approx(TONE_HZ, rel=0.05)  # 8 kHz are 2840 mel
    tokens = opened.run(
        "[...document.querySelectorAll('.token')].map(e => [e.textContent, e.style.left, e.style.width])"
    )
    places = [(text, float(left[:-1]) * 0.015, float(width[:-1]) * 0.015) for text, left, width in tokens]
    assert [each[0] for each in places] == ["o", "n"]
    assert [each[1:] for each in places] == [pytest.approx((0.2, 0.1), abs=1e-4), pytest.approx((0.8, 0.02), abs=1e-4)]
    opened.run("document.querySelector('#row-3 button').click()")
    assert opened.run("document.querySelectorAll('audio').length") == 0


def test_its_fourier_transform_is_one(opened: Browser) -> None:
    random = np.random.default_rng(0)
    real, imaginary = random.normal(size=(2, 512))
    given = f"const a = Float32Array.from({real.tolist()}), b = Float32Array.from({imaginary.tolist()})"
    found = opened.run(f"(() => {{ {given}; transform(a, b); return [[...a], [...b]]; }})()")
    expected = np.fft.fft(real + 1j * imaginary)
    assert np.allclose(found, [expected.real, expected.imag], atol=1e-3)


def test_columns_sort_both_ways_and_what_is_unknown_stands_last(opened: Browser) -> None:
    sort_by(opened, "id")
    assert ids(opened)[:3] == ["arabic", HOSTILE_ID, "u000"]
    sort_by(opened, "id")
    assert ids(opened)[0] == "u149"
    sort_by(opened, "confidence")
    assert column(opened, "confidence")[:5] == ["0.900", "0.400", "0.200", "0.100", ""]
    sort_by(opened, "confidence")
    assert column(opened, "confidence")[:5] == ["0.100", "0.200", "0.400", "0.900", ""]
    assert opened.run("[...document.querySelectorAll('#rows th[aria-sort]')].map(e => e.ariaSort)") == ["ascending"]
    sort_by(opened, "I")
    assert ids(opened)[0] == "u002" or column(opened, "I")[0] > "1"


def test_filters_by_text_error_group_and_confusion(opened: Browser) -> None:
    search = "byId('search').value = {!r}; byId('search').dispatchEvent(new Event('input'))"
    opened.run(search.format("TOO"))
    assert ids(opened) == ["u001", "u011", "u010"]
    opened.run(search.format("عليكم"))
    assert ids(opened) == ["arabic"]
    opened.run("byId('reset').click()")
    choose(opened, "byId('kind')", "empty")
    assert ids(opened) == ["u003"]
    choose(opened, "byId('kind')", "D")
    assert {"u001", "u003", "arabic"} <= set(ids(opened)) and "u002" not in ids(opened)
    choose(opened, "byId('kind')", "worse")
    assert ids(opened) == ["u002"]
    opened.run("byId('reset').click()")
    choose(opened, "document.querySelector('#filters [data-grouping=sex]')", "f")
    assert set(column(opened, "sex")) == {"f"}
    opened.run("byId('reset').click()")
    opened.run("""[...document.querySelectorAll('#confusions tbody tr')].find(e => e.cells[1].textContent === 'two'
        && e.cells[2].textContent === 'too').querySelector('button').click()""")
    assert ids(opened) == ["u001", "u010"]
    opened.run("document.querySelector('#chip button').click()")
    assert len(ids(opened)) == 20


def test_a_column_has_limits(opened: Browser) -> None:
    limit = "byId({!r}).value = {!r}; byId({!r}).dispatchEvent(new Event('change'))"
    opened.run(limit.format("low", "50", "low"))
    assert ids(opened) == [HOSTILE_ID, "u003", "arabic", "u001"]
    opened.run(limit.format("high", "50", "high"))
    assert ids(opened) == ["arabic", "u001"]
    choose(opened, "byId('limited')", "confidence")
    opened.run("byId('reset').click()")
    choose(opened, "byId('limited')", "confidence")
    opened.run(limit.format("high", "0.2", "high"))
    assert ids(opened) == ["u003", "u001"]


def test_more_are_shown_when_asked_for(opened: Browser) -> None:
    choose(opened, "byId('most')", "Infinity")
    assert len(ids(opened)) == 100
    assert opened.run("byId('count').textContent") == "100 shown of 152 that fit, of 152."
    opened.run("byId('more').click()")
    assert len(set(ids(opened))) == 152
    assert opened.run("byId('more').hidden")


def test_the_keyboard_alone_is_enough(opened: Browser) -> None:
    opened.press("/", "/")
    for letter in "u003":
        opened.press(letter, letter)
    assert ids(opened) == ["u003"]
    opened.run("document.activeElement.blur()")
    opened.press("j", "j")
    assert opened.run("document.activeElement.textContent").startswith("u003")
    opened.press("Enter", "\r")
    opened.wait("document.querySelector('audio')?.readyState > 0")
    opened.press("p", "p")
    opened.wait("!document.querySelector('audio').paused")
    assert opened.run("document.querySelector('#row-3 button').ariaExpanded") == "true"


def test_figures_and_groups_are_drawn(opened: Browser) -> None:
    said = opened.run("byId('totals').textContent")
    assert "WER" in said and "CER" in said and "texts as they are" in said and "50 times, seed 0" in said
    assert "The second minus the first" in said
    assert opened.run("document.querySelectorAll('#groups .dot').length") == 2 * 3
    opened.run("document.querySelector('#groups .link').click()")
    assert opened.run("Object.keys(state.groups).length") == 1
    for axis, points in (("confidence", 8), ("seconds", 304), ("words", 304)):
        opened.run(f"document.querySelector('#axis [value={axis}]').click()")
        assert axis in opened.run("byId('points').ariaLabel")
        assert opened.run("state.points.length") == points
    assert opened.run("byId('points').getContext('2d').getImageData(0, 0, 600, 300).data.some(value => value > 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(opened: Browser, scheme: str) -> None:
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    brightness = "(colour => colour.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3)"
    for where in ("body", "#rows .S", "#rows .D", "#rows .I"):
        style = f"getComputedStyle(document.querySelector({where!r}))"
        text, ground = (opened.run(f"{brightness}({style}.{of})") for of in ("color", "backgroundColor"))
        assert (text - ground > 100) if scheme == "dark" else (ground - text > 100), where
