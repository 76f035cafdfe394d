"""The page: Gradio's controls for the settings, and places that the page's own script fills."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio reads it

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from segue.errors import SegueError
from segue.settings.kinds import FilmSettings, MorphSettings
from segue.settings.presets import FAST, PRESET_HELP, PRESETS, preset_settings
from segue.settings.text import as_json
from segue.studio.controls import SHOWN, Control, controls, groups, shown
from segue.studio.films import make_film, rewrite_film
from segue.studio.serve import visitor_of
from segue.studio.session import Session, Studio

__all__ = ["HEAD", "page", "theme"]

HEAD = (
    '<link rel="stylesheet" href="/studio/page/page.css"><link rel="icon" href="data:,">'
    '<script src="/studio/page/page.js" type="module"></script>'
)
FONTS = ["system-ui", "sans-serif"]


def theme() -> Any:
    """Calm colours whose text has a contrast of 4.5 or more, and fonts that need no network."""
    base = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "monospace"], radius_size="md"
    )
    colours = {  # on light and on dark
        "body_background_fill": ("*neutral_50", "#0b1220"),
        "background_fill_primary": ("white", "#131c2e"),
        "background_fill_secondary": ("*neutral_100", "#0f1726"),
        "block_background_fill": ("white", "#131c2e"),
        "body_text_color": ("*neutral_900", "*neutral_100"),
        "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
        "block_info_text_color": ("*neutral_600", "*neutral_400"),
        "block_title_text_color": ("*neutral_800", "*neutral_200"),
        "block_label_text_color": ("*neutral_800", "*neutral_200"),
        "border_color_primary": ("*neutral_200", "#2a3650"),
        "border_color_accent": ("*primary_500", "*primary_500"),
        "block_border_color": ("*neutral_200", "#2a3650"),
        "color_accent_soft": ("*primary_50", "#123036"),
        "input_placeholder_color": ("*neutral_500", "*neutral_400"),
        "input_background_fill": ("*neutral_50", "#0f1726"),
        "input_border_color": ("*neutral_300", "#2a3650"),
        "checkbox_label_background_fill": ("*neutral_50", "#0f1726"),
        "checkbox_label_background_fill_selected": ("*primary_50", "#123036"),
        "checkbox_label_text_color_selected": ("*neutral_900", "*neutral_100"),
        "button_primary_background_fill": ("*primary_700", "*primary_700"),
        "button_primary_background_fill_hover": ("*primary_800", "*primary_600"),
        "button_primary_text_color": ("white", "white"),
        "link_text_color": ("*primary_700", "*primary_400"),
    }
    light = {name: values[0] for name, values in colours.items()}
    dark = {f"{name}_dark": values[1] for name, values in colours.items()}
    return base.set(
        color_accent="*primary_600", input_border_width="1px", input_border_width_dark="1px", **light, **dark
    )


def page(studio: Studio) -> Any:
    """The page of a studio, as Gradio's Blocks."""
    images, film = controls(MorphSettings), controls(FilmSettings)
    with gr.Blocks(title="Segue studio", analytics_enabled=False, fill_width=True) as blocks:
        _place("segue-top")
        with gr.Row(elem_id="segue-desk"):
            with gr.Column(elem_id="segue-side"):
                gr.HTML('<div class="sg"><h2>Settings</h2></div>', apply_default_css=False)
                with gr.Group(elem_id="segue-settings"):
                    preset = gr.Radio(
                        list(studio.presets), value="balanced", label="--preset", info=PRESET_HELP, elem_id="preset"
                    )
                    made = {name: _component(images[name], MorphSettings) for name in SHOWN}
                make = gr.Button("Make the film", variant="primary", elem_id="make")
                with gr.Accordion("All settings", open=False, elem_id="all-settings"):
                    for group, members in groups().items():
                        with gr.Accordion(group, open=False):
                            made |= {name: _component(images[name], MorphSettings) for name in members}
            with gr.Column(elem_id="segue-main"):
                _place("segue-work")
                with gr.Accordion("Film settings", open=False, elem_id="film-settings"):
                    with gr.Row():
                        filmed = {name: _component(control, FilmSettings) for name, control in film.items()}
                    write = gr.Button("Write the film anew", elem_id="write-film")
        answer = gr.Textbox(visible="hidden", elem_id="segue-answer")
        table = gr.Textbox(visible="hidden", elem_id="segue-table")  # the film that the settings belong to
        reload = gr.Button("Show the settings of the table", visible="hidden", elem_id="reload-settings")

        def making(request: gr.Request, film: str, chosen: str, *values: Any) -> tuple[str, str]:
            session = _session(studio, request)
            said = _said(session, film, lambda: make_film(session, dict(zip(made, values, strict=True)), chosen))
            return said, film if said else session.tables.name

        def writing(request: gr.Request, film: str, *values: Any) -> str:
            session = _session(studio, request)
            return _said(session, film, lambda: rewrite_film(session, dict(zip(filmed, values, strict=True))))

        def loading(request: gr.Request) -> list[Any]:
            session = _session(studio, request)
            data = session.data
            begun = data["preset"] if data["preset"] in studio.presets else "balanced"  # the model may be another now
            images = _shown(MorphSettings, preset_settings(begun, studio.model_name, studio.marks)) | data["controls"]
            films = _shown(FilmSettings, data["film"]) | data["film_controls"]
            return [
                session.tables.name, begun, *(images[name] for name in made), *(films[name] for name in filmed)
            ]  # fmt: skip

        def choosing(request: gr.Request, film: str, chosen: str) -> list[Any]:
            values = _shown(MorphSettings, preset_settings(chosen, studio.model_name, studio.marks))
            found = {name: values[name] for name in changed}
            _session(studio, request).tables.keep("controls", found, name=film, preset=chosen)
            return list(found.values())

        def keeping(part: str, name: str) -> Callable[[gr.Request, str, Any], None]:
            def keep(request: gr.Request, film: str, value: Any) -> None:
                _session(studio, request).tables.keep(part, {name: value}, name=film)

            return keep

        said = {"fn": None, "inputs": [answer], "js": "text => window.segue && window.segue.said(text)"}
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        make.click(making, [table, preset, *made.values()], [answer, table], **quick).then(**said, queue=False)
        write.click(writing, [table, *filmed.values()], [answer], **quick).then(**said, queue=False)
        changed = sorted({name for values in (*PRESETS.values(), *FAST.values()) for name in values})
        preset.input(choosing, [table, preset], [made[name] for name in changed], **quick)
        for part, components in (("controls", made), ("film_controls", filmed)):
            for name, component in components.items():
                keep = keeping(part, name)
                component.input(keep, [table, component], None, trigger_mode="always_last", **quick)
        settings = [table, preset, *made.values(), *filmed.values()]
        blocks.load(loading, None, settings, **quick)
        reload.click(loading, None, settings, **quick)
    return blocks


def _place(name: str) -> None:
    """A place that the page's own script fills."""
    gr.HTML(f'<div id="{name}" class="sg"></div>', apply_default_css=False)


def _shown(kind: type[Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the controls show of settings, the defaults where none are given."""
    values = {**as_json(kind()), **(given or {})}
    return {name: shown(name, values[name]) for name in controls(kind)}


def _component(control: Control, kind: type[Any]) -> Any:
    """Gradio's component for a control."""
    value = shown(control.name, as_json(kind())[control.name])
    common = {"label": control.label, "info": control.help, "value": value}
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


def _said(session: Session, film: str, act: Callable[[], None]) -> str:
    """What went wrong with what is meant for a film, in one line; nothing where all is well."""
    try:
        with session.lock:
            session.check(film)
            act()
    except SegueError as error:
        return " ".join(str(error).split())
    except OSError as error:
        return f"the studio's folder cannot be written: {error.strerror}"
    return ""
