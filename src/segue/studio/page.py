"""The page: Gradio's controls for the settings, and places that the page's own script fills."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio reads it

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from segue.errors import SegueError
from segue.settings import PRESETS, FilmSettings, MorphSettings, as_json, preset_settings
from segue.studio.controls import SHOWN, Control, controls, groups, shown
from segue.studio.serve import visitor_of
from segue.studio.session import Session, Studio

__all__ = ["HEAD", "page", "theme"]

HEAD = (
    '<link rel="stylesheet" href="/studio/page.css"><link rel="icon" href="data:,">'
    '<script src="/studio/page.js" defer></script>'
)
FONTS = ["system-ui", "sans-serif"]
ABOUT = {"draft": "draft: a first look", "balanced": "balanced", "paper": "paper: slow, as published"}


def theme() -> Any:
    """Calm colours, and fonts that need no network."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "monospace"], radius_size="sm"
    )


def page(studio: Studio) -> Any:
    """The page of a studio, as Gradio's Blocks."""
    images, film = controls(MorphSettings), controls(FilmSettings)
    with gr.Blocks(title="Segue studio", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML('<div id="segue-top"></div>')
        with gr.Group(elem_id="segue-settings"):
            names = [(ABOUT[name], name) for name in ("draft", "balanced", "paper")]
            preset = gr.Radio(names, value="balanced", label="preset", info="Values to begin with.", elem_id="preset")
            with gr.Row():
                made = {name: _component(images[name], MorphSettings) for name in SHOWN}
            with gr.Accordion("All settings", open=False, elem_id="all-settings"):
                for group, members in groups().items():
                    with gr.Accordion(group, open=False):
                        made |= {name: _component(images[name], MorphSettings) for name in members}
        make = gr.Button("Make the film", variant="primary", elem_id="make")
        gr.HTML('<div id="segue-work"></div>')
        with gr.Accordion("Film: speed, hold, there and back", open=False, elem_id="film-settings"):
            with gr.Row():
                filmed = {name: _component(control, FilmSettings) for name, control in film.items()}
            write = gr.Button("Write the film anew", elem_id="write-film")
        gr.HTML('<div id="segue-end"></div>')
        answer = gr.Textbox(visible="hidden", elem_id="segue-answer")

        def making(request: gr.Request, chosen: str, *values: Any) -> str:
            return _said(lambda: _session(studio, request).make(dict(zip(made, values, strict=True)), chosen))

        def writing(request: gr.Request, *values: Any) -> str:
            return _said(lambda: _session(studio, request).film(dict(zip(filmed, values, strict=True))))

        def loading(request: gr.Request) -> list[Any]:
            session = _session(studio, request)
            table = {**as_json(MorphSettings()), **session.data["settings"]}
            films = {**as_json(FilmSettings()), **session.data["film"]}
            return [
                session.data["preset"],
                *(shown(name, table[name]) for name in made),
                *(shown(name, films[name], FilmSettings) for name in filmed),
            ]

        said = {"fn": None, "inputs": [answer], "js": "text => window.segue && window.segue.said(text)"}
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        make.click(making, [preset, *made.values()], [answer], **quick).then(**said, queue=False)
        write.click(writing, list(filmed.values()), [answer], **quick).then(**said, queue=False)
        changed = sorted({name for values in PRESETS.values() for name in values})
        preset.input(lambda name: _preset(name, changed), [preset], [made[field] for field in changed], **quick)
        blocks.load(loading, None, [preset, *made.values(), *filmed.values()], **quick)
    return blocks


def _preset(name: str, changed: list[str]) -> list[Any]:
    """What the controls show under a preset."""
    values = {**as_json(MorphSettings()), **preset_settings(name)}
    return [shown(field, values[field]) for field in changed]


def _component(control: Control, kind: type[Any]) -> Any:
    """Gradio's component for a control."""
    default: Mapping[str, Any] = as_json(kind())
    common = {"label": control.label, "info": control.help, "value": shown(control.name, default[control.name], kind)}
    match control.kind:
        case "flag":
            return gr.Checkbox(**common)
        case "choice":
            return gr.Dropdown([(choice or "(none)", choice) for choice in control.choices], **common)
        case "whole":
            return gr.Number(precision=0, **common)
        case "number":
            return gr.Number(**common)
        case "lines":
            return gr.Textbox(lines=2, placeholder="one a line", **common)
        case _:
            return gr.Textbox(**common)


def _session(studio: Studio, request: gr.Request) -> Session:
    visitor = visitor_of(dict(request.cookies))
    if visitor is None:
        raise SegueError("the page needs its cookie; allow cookies for this address and reload")
    return studio.session(visitor)


def _said(act: Callable[[], None]) -> str:
    """What went wrong, in one line; nothing where all is well."""
    try:
        act()
    except SegueError as error:
        return " ".join(str(error).split())
    except OSError as error:
        return f"the studio's folder cannot be written: {error.strerror}"
    return ""
