"""Adding an app to a manifest's text, changing it and taking it out, with every other character left as it is.

A YAML library that reads and writes again lays the whole file out anew (decision 46). Here the parser only says where
things stand; the text is cut and joined at these places, and the result is read again before anybody gets it: if it
does not hold exactly what was asked for, the edit is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from multidb.errors import ManifestError, UsageError
from multidb.manifest.document import compose, plain, tree
from multidb.manifest.names import closest
from multidb.manifest.text import NAME, ManifestText, flow_text

__all__ = ["add_app", "add_apps", "apps_of", "change_app", "entry_of", "initial", "remove_app", "rename_app"]


def add_app(text: str, app_id: str, entry: Mapping[str, Any]) -> str:
    """The manifest `text` with one more app, after the others and in their style; `remove_app` gives `text` back.

    (Where there was no ``apps`` at all, `remove_app` leaves an empty ``apps:``.)

    Raises:
        ManifestError: `text` is not YAML.
        UsageError: the app is there already, or the text is laid out in a way that cannot be edited safely.
    """
    return add_apps(text, {app_id: entry})


def add_apps(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """As `add_app`, of several apps in one step."""
    if not entries:
        return text
    source, new = ManifestText(text), {app_id: _copy(entry) for app_id, entry in entries.items()}
    before = source.values()
    apps = _apps_in(before)
    if there := next((app_id for app_id in new if app_id in apps), None):
        raise UsageError(f"app {there} is in the manifest already")
    expected = {**before, "apps": {**apps, **new}}
    return _checked(source.with_apps(new), expected, f"write it by hand, under apps: {flow_text(new)}")


def remove_app(text: str, app_id: str) -> str:
    """The manifest, or included file, `text` without one app. Comments outside of its entry stay.

    Raises:
        ManifestError: `text` is not YAML.
        UsageError: there is no such app in it, or it cannot be taken out safely (another entry uses its anchor).
    """
    source = ManifestText(text)
    before = source.values()
    included = source.is_included_file()
    apps = before if included else _apps_in(before)
    if app_id not in apps:
        near = closest(app_id, apps)
        hint = f"did you mean {near}?" if near else "multidb show lists the apps"
        raise UsageError(f"there is no app {app_id} in the manifest", hint=hint)
    left = {name: value for name, value in apps.items() if name != app_id}
    expected = left if included else {**before, "apps": left}
    return _checked(source.without_app(app_id, included=included), expected, "take the entry out by hand")


def change_app(text: str, app_id: str, changes: Mapping[str, Any]) -> str:
    """The manifest, overlay or included file `text` with `changes` laid over an app's entry: mappings key by key, what
    is added to a list behind what is in it, anything else in the place of what was there. Comments stay.

    Raises:
        ManifestError: `text` is not YAML.
        UsageError: there is no such app in it, or its entry cannot be edited safely (another one shares its anchor).
    """
    source = ManifestText(text)
    before, included = source.values(), source.is_included_file()
    apps = before if included else _apps_in(before)
    if app_id not in apps:
        raise UsageError(f"there is no app {app_id} in the manifest")
    changed = {**apps, app_id: _laid_over(apps[app_id], _copy(changes))}
    hint = f"write it by hand, into the entry of {app_id}: {flow_text(_copy(changes))}"
    for path, value in _leaves(_copy(changes)):
        text = ManifestText(text).with_value([*([] if included else ["apps"]), app_id, *path], value, hint)
    return _checked(text, changed if included else {**before, "apps": changed}, hint)


def rename_app(text: str, app_id: str, new: str) -> str:
    """The manifest, overlay or included file `text` with an app called otherwise, at its place, comments and all.

    Raises:
        ManifestError: `text` is not YAML.
        UsageError: there is no such app in it, or the new one is there; or it cannot be edited safely.
    """
    source = ManifestText(text)
    before, included = source.values(), source.is_included_file()
    apps = before if included else _apps_in(before)
    if app_id not in apps:
        raise UsageError(f"there is no app {app_id} in the manifest")
    if new in apps:
        raise UsageError(f"app {new} is in the manifest already")
    renamed = {new if name == app_id else name: entry for name, entry in apps.items()}
    expected = renamed if included else {**before, "apps": renamed}
    return _checked(source.with_key(app_id, new, included=included), expected, f"write {new} for {app_id} by hand")


def with_secrets(text: str, value: object) -> str:
    """The manifest or overlay `text` with another value of its section ``secrets``, which is added where it has none.

    Raises:
        ManifestError: `text` is not YAML.
        UsageError: it is laid out in a way that cannot be edited safely.
    """
    source = ManifestText(text)
    hint = "write it by hand: " + flow_text({"secrets": value})
    return _checked(source.with_value(["secrets"], value, hint), {**source.values(), "secrets": value}, hint)


def value_of(text: str, name: str) -> Any:
    """What a piece of YAML says, read as a manifest is: `ManifestError` for what a manifest may not have either.

    Args:
        name: what it is called in problems.
    """
    node, problems = tree(compose(text, name), text, name)
    if problems:
        raise ManifestError(problems)
    return None if node is None else plain(node)


def with_state(text: str, address: str) -> str:
    """The manifest or overlay `text` with the state kept elsewhere; the line is added where it has none.

    Raises:
        ManifestError: `text` is not YAML.
        UsageError: it is laid out in a way that cannot be edited safely.
    """
    source, hint = ManifestText(text), f"write it by hand: state: {address}"
    return _checked(source.with_value(["state"], address, hint), {**source.values(), "state": address}, hint)


def apps_of(text: str) -> list[str]:
    """The apps that the manifest, overlay or included file `text` names.

    Raises:
        ManifestError: `text` is not YAML.
    """
    source = ManifestText(text)
    return list(source.values() if source.is_included_file() else _apps_in(source.values()))


def entry_of(text: str, app_id: str) -> dict[str, Any] | None:
    """What the manifest, overlay or included file `text` says about one app; None when it does not name it.

    Raises:
        ManifestError: `text` is not YAML.
    """
    source = ManifestText(text)
    values = source.values()
    apps = values if source.is_included_file() else _apps_in(values)
    if app_id not in apps:
        return None
    entry = apps[app_id]
    return entry if isinstance(entry, dict) else {}


_RUNTIMES: Final = {
    "embedded": "processes that `multidb up` starts; `external` uses servers that exist already",
    "compose": "containers that `multidb up` starts; `external` uses servers that exist already",
    "external": "servers that exist already; `embedded` are processes that `multidb up` starts",
}


def initial(project: str, runtime: str = "embedded", external: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The commented manifest that a new project begins with.

    Args:
        runtime: where its servers come from.
        external: by store, where its server is and where its admin's password is read from.
    """
    lines = "".join(f"  {flow_text({store: entry})}\n" for store, entry in (external or {}).items())
    servers = (
        f"\nexternal: # where they are, with the admin's name; passwords stay out of this file\n{lines}"
        if lines
        else ""
    )
    return f"""\
# What each app of this project wants on the shared servers. `multidb plan` shows what would change, `multidb apply`
# makes it so. `multidb schema` prints the JSON Schema of this file, for editors.
version: 1
{flow_text({"project": project})} # marks everything that multidb makes on the servers; do not change it later
runtime: {runtime} # {_RUNTIMES[runtime]}
{servers}
# servers: # the shared servers; everything has a default
#   postgres: {{port: 5432}}

# defaults: # options for every app that does not say otherwise
#   postgres: {{connection_limit: 20, statement_timeout: 30s}}

# The apps by id. An empty entry is an app with every store and all defaults; `multidb add-app NAME` adds one.
#   shop: {{}}
#   blog: {{stores: [postgres, redis]}}
#   search:
#     qdrant: {{collections: {{knowledge: {{size: 1536, distance: cosine}}}}}}
apps:

# include: [apps/*/app.yaml] # more apps, one file each
"""


def _checked(text: str, expected: Mapping[str, Any], hint: str) -> str:
    """`text`, if it says what it is meant to say."""
    try:
        values = ManifestText(text).values()
        if {**values, "apps": _apps_in(values)} == {**expected, "apps": _apps_in(expected)}:
            return text
    except ManifestError:
        pass
    raise UsageError("the manifest is laid out in a way that cannot be edited safely", where=NAME, hint=hint)


def _apps_in(values: Mapping[str, Any]) -> dict[str, Any]:
    apps = values.get("apps")
    return apps if isinstance(apps, dict) else {}


def _laid_over(below: Any, above: Any) -> Any:
    if not isinstance(above, dict):
        return above
    base = below if isinstance(below, dict) else {}
    return {**base, **{key: _laid_over(base.get(key), value) for key, value in above.items()}}


def _leaves(changes: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """What is no mapping of something, with the keys that lead to it."""
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            yield from (([key, *path], leaf) for path, leaf in _leaves(value))
        else:
            yield [key], value


def _copy(value: Any) -> Any:
    """Plain dicts and lists, as they come out of a file."""
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
