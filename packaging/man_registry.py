"""The manual page registry(1), from the commands themselves: one page for all verbs."""

import inspect
from collections.abc import Iterator

import click
import roff

_FILES = {
    "/etc/registry.toml": "The settings, all of them optional; see registry.toml(5).",
    "/var/lib/registry": "The data folder: blobs, the catalogue, keys, the password file of a service.",
    "/var/lib/registry/admin-password": (
        "The first password of the account admin, until it is given another one."
    ),
    "/etc/registry.htpasswd": "Accounts, where the registry may write in /etc.",
}
_ENVIRONMENT = {
    "REGISTRY_TABLE_KEY": "The same as key in [table] of the settings file, which it overrides."
}
_STATUS = {
    "0": "Done.",
    "1": "Something was found that needs somebody, as damage by registry verify.",
    "2": "An operator's mistake; one sentence says which, and what to do.",
}


def page(group: click.Group, version: str) -> str:
    """Write the page for a command with verbs."""
    summary, *more = _told(group)
    lines = [
        roff.title("registry", 1, version),
        roff.heading("NAME"),
        "registry \\- run a private container registry",
        roff.heading("SYNOPSIS"),
        "\\fBregistry\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]",
        roff.heading("DESCRIPTION"),
        *roff.paragraph(summary),
    ]
    for text in more:
        lines += roff.paragraph(text)
    if group.epilog:
        lines += roff.paragraph([group.epilog])
    lines.append(roff.heading("COMMANDS"))
    for words, command in _verbs(group, ("registry",)):
        lines += _verb(words, command)
    for name, entries in (
        ("FILES", _FILES),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("EXIT STATUS", _STATUS),
    ):
        lines.append(roff.heading(name))
        for term, told in entries.items():
            lines += roff.entry([term], [told])
    lines += [roff.heading("SEE ALSO"), "\\fBregistry.toml\\fR(5)"]
    return roff.page(lines)


def _verbs(
    group: click.Group, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from _verbs(command, (*words, name))
        else:
            yield (*words, name), command


def _verb(words: tuple[str, ...], command: click.Command) -> list[str]:
    context = click.Context(command, info_name=words[-1])
    arguments = [
        piece
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Argument)
        for piece in parameter.get_usage_pieces(context)
    ]
    lines = [roff.subheading(" ".join((*words, *arguments)))]
    for text in _told(command):
        lines += roff.paragraph(text)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            lines += roff.entry([record[0]], [record[1]])
    return lines


def _told(command: click.Command) -> list[list[str]]:
    """Return the paragraphs of a command's help, line by line."""
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return [part.splitlines() for part in text.split("\n\n")]
