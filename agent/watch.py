"""Tells when one of a few files in a directory may have changed. The only module that knows watchdog."""

from collections.abc import Callable, Collection
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from shared.logs import log


class FileWatch:
    """Calls `on_touch`, from a thread of its own, for each event on a file named in `names`.

    It may call without a change, and several times for one. The directory is watched, not the files, because editors
    replace them.
    """

    def __init__(self, directory: Path, names: Collection[str], on_touch: Callable[[], None]) -> None:
        self._directory = directory
        self._handler = _Handler(frozenset(names), on_touch)
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        self._observer = self._started(Observer())
        if self._observer is None:
            from watchdog.observers.polling import PollingObserver  # rarely needed, and not small

            self._observer = self._started(PollingObserver(timeout=0.5))

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()

    def _started(self, observer: BaseObserver) -> BaseObserver | None:
        try:
            observer.schedule(self._handler, str(self._directory), recursive=False)
            observer.start()
        except OSError as error:  # the host's inotify watches are used up
            log(directory=self._directory).warning("no inotify, looking twice a second instead: {}", error)
            return None
        return observer


class _Handler(FileSystemEventHandler):
    def __init__(self, names: frozenset[str], on_touch: Callable[[], None]) -> None:
        self._names = names
        self._on_touch = on_touch

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return  # our own reading
        paths = (str(event.src_path), str(event.dest_path))
        if any(Path(path).name in self._names for path in paths if path):
            self._on_touch()
