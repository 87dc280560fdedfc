"""API keys: made, shown once, told to whom they belong, revoked, expired; and projects apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from postgres import NewDatabase
from service_samples import add_file, at_once, count, new_file, new_project
from sqlalchemy import update

from rag.errors import UnknownKey, UsageError
from rag.store.answers import NewResponse, Responses
from rag.store.blobs import Blobs
from rag.store.catalog import SHADOW_PREFIX, Catalog
from rag.store.database import Database
from rag.store.files import Files
from rag.store.pages import Slice
from rag.store.projects import Access, Keys, Scope
from rag.store.service_tables import KeyRow, ProjectRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.uploads import Uploads
from rag.store.vector_stores import Maker, NewStore, VectorStores

MAKER = Maker("e1", 4, "c1")


@pytest.fixture
def keys(db: Database) -> Keys:
    return Keys(db)


@pytest.fixture(scope="module")
def stores(
    tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase
) -> Iterator[VectorStores]:
    db = Database(new_database(tmp_path_factory.mktemp("stores")))
    yield VectorStores(db)
    db.close()


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_key_says_whose_it_is(keys: Keys, scope: Scope) -> None:
    assert (keys.exist(), keys.usable(), keys.list()) == (False, 0, [])

    info, key = keys.create("laptop 笔记本", project="人事", scope=scope)

    access = keys.access(key)
    assert access is not None
    assert (access.scope, access.key_id) == (scope, info.id)
    assert access.project_id != DEFAULT_PROJECT
    assert key.startswith("sk-youju-")
    assert len(key) == len("sk-youju-") + 43
    assert keys.list() == [info]
    assert (info.name, info.project, info.scope) == ("laptop 笔记本", "人事", scope)
    assert (info.hint, info.expires_at, info.revoked_at) == (key[-4:], None, None)
    assert abs(info.created_at - time.time()) < 60
    assert (keys.exist(), keys.usable()) == (True, 1)


def test_keys_of_one_project_share_it(keys: Keys) -> None:
    made = [keys.create(name, project=project) for name in "ab" for project in ("default", "x")]

    found = [keys.access(key) for _, key in made]

    projects = [access.project_id for access in found if access is not None]
    assert projects[0] == projects[2] == DEFAULT_PROJECT
    assert projects[1] == projects[3] != DEFAULT_PROJECT
    assert [info.name for info in keys.list()] == ["a", "a", "b", "b"]
    assert len({key for _, key in made}) == 4


def test_the_key_itself_is_nowhere_on_disk(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'youju.db'}")
    keys = Keys(db)
    info, key = keys.create("secret holder")
    keys.access(key)
    keys.access(key + "x")
    keys.revoke(info.id)

    written = b"".join(path.read_bytes() for path in tmp_path.rglob("youju.db*"))
    db.close()
    written += (tmp_path / "youju.db").read_bytes()

    assert b"secret holder" in written
    assert key.encode() not in written
    assert key.removeprefix("sk-youju-").encode() not in written
    assert key[-20:].encode() not in written


def test_a_revoked_key_is_worthless_for_good(keys: Keys) -> None:
    info, key = keys.create("a")
    _, other = keys.create("b")

    keys.revoke(info.id)
    revoked = keys.list()[0].revoked_at
    keys.revoke(info.id)

    assert keys.access(key) is None
    assert keys.access(other) is not None
    assert revoked is not None
    assert keys.list()[0].revoked_at == revoked
    assert (keys.usable(), keys.exist()) == (1, True)
    keys.revoke(keys.list()[1].id)
    assert (keys.usable(), keys.exist()) == (0, True)


def test_a_key_expires(keys: Keys, db: Database) -> None:
    info, key = keys.create("a", days=1)
    assert info.expires_at == info.created_at + 86_400
    assert isinstance(keys.access(key), Access)

    with db.write() as session:
        session.execute(update(KeyRow).values(expires_at=int(time.time())))

    assert keys.access(key) is None
    assert keys.usable() == 0


@pytest.mark.parametrize("days", [0, -1, 36_501, 10**20])
def test_days_out_of_range_are_refused(keys: Keys, days: int) -> None:
    with pytest.raises(UsageError, match=r"36,500"):
        keys.create("a", days=days)
    assert not keys.exist()


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x00", "\udcff", "x" * 101])
def test_names_that_cannot_be_shown_are_refused(keys: Keys, db: Database, name: str) -> None:
    with pytest.raises(UsageError, match="for a key is not usable"):
        keys.create(name)
    with pytest.raises(UsageError, match="for a project is not usable"):
        keys.create("a", project=name)
    assert (count(db, KeyRow), count(db, ProjectRow)) == (0, 1)


@pytest.mark.parametrize("key_id", ["", "key_0", "\udcff", "\x00", "'; DROP TABLE api_keys; --"])
def test_an_unknown_key_cannot_be_revoked(keys: Keys, key_id: str) -> None:
    keys.create("a")
    with pytest.raises(UnknownKey, match="No key has the id"):
        keys.revoke(key_id)
    assert keys.usable() == 1


@pytest.mark.parametrize("key", ["", "sk-youju-", "sk-youju-" + "A" * 43, "\udcff", "\x00", "密钥"])
def test_an_unknown_key_allows_nothing(keys: Keys, key: str) -> None:
    _, real = keys.create("a")
    assert keys.access(key) is None
    assert keys.access(real[:-1]) is None
    assert keys.access(real.upper()) is None
    assert keys.access(f" {real}") is None


def test_a_new_project_is_made_once_by_many(keys: Keys, db: Database) -> None:
    made = at_once([lambda n=n: keys.create(f"key {n}", project="new") for n in range(6)])  # type: ignore[misc]

    assert all(isinstance(pair, tuple) for pair in made)
    assert count(db, ProjectRow) == 2
    assert len({info.project for info in keys.list()}) == 1


# -- projects apart --------------------------------------------------------------------------------


def test_a_project_sees_nothing_of_another(db: Database, tmp_path: Path) -> None:
    mine, other = new_project(db), new_project(db)
    files = Files(db, Blobs(tmp_path / "blobs"))
    uploads, stores, responses = Uploads(db, files), VectorStores(db), Responses(db)
    file = add_file(files, b"mine", mine)
    upload = uploads.create(new_file(mine), 4).row
    store = stores.create(mine, NewStore(title="mine"), MAKER)
    responses.add(NewResponse("resp_1", mine, None, "q", "a", False, [], [], {}))
    rated = responses.get(mine, "resp_1")
    assert rated is not None
    responses.rate(rated, "up", None, None)

    def seen(project: str) -> list[int]:
        return [
            files.get(project, file.id) is not None,
            len(files.page(project, Slice()).items),
            uploads.get(project, upload.id) is not None,
            stores.get(project, store.id) is not None,
            len(stores.page(project, Slice()).items),
            len(stores.titled(project, "mine")),
            Catalog(db).by_id(store.id, project) is not None,
            responses.get(project, "resp_1") is not None,
            len(responses.feedback(project, Slice()).items),
            len(list(responses.rated(project))),
        ]

    assert seen(mine) == [1] * 10
    assert seen(other) == [0] * 10
    assert seen(DEFAULT_PROJECT) == [0] * 10


# -- stores of clients -----------------------------------------------------------------------------

characters = st.characters(codec="utf-8", exclude_characters="\0")  # which the API refuses
titles = st.text(st.sampled_from("~ a中\u200b\n\x7f"), max_size=8) | st.text(
    characters, max_size=130
)


@settings(deadline=None, max_examples=40)
@given(title=titles, default=st.booleans())
@example(title="~ ~x", default=True)
@example(title="\u200b~x", default=True)
@example(title="~", default=False)
def test_a_store_with_any_title_can_be_found_and_named(
    stores: VectorStores, title: str, default: bool
) -> None:
    db = stores._db
    project = DEFAULT_PROJECT if default else new_project(db)

    row = stores.create(project, NewStore(title=title), MAKER)

    assert row.title == title
    assert not row.name.startswith(SHADOW_PREFIX)
    assert 1 <= len(row.name) <= 100
    assert row.name.isprintable()
    found = Catalog(db).find(row.name)
    assert found is not None
    assert found.id == row.id
    assert stores.get(project, row.id) is not None
    Catalog(db).delete_shadows(-10)
    assert stores.find(row.id) is not None


def test_only_the_default_project_takes_plain_names(db: Database) -> None:
    stores = VectorStores(db)
    foreign = stores.create(new_project(db), NewStore(title="default"), MAKER)
    first = stores.create(DEFAULT_PROJECT, NewStore(title="default"), MAKER)
    second = stores.create(DEFAULT_PROJECT, NewStore(title="default"), MAKER)

    assert first.name == "default"
    assert foreign.name == f"default ({foreign.id})"
    assert second.name == f"default ({second.id})"
    found = stores.titled(DEFAULT_PROJECT, "default")
    assert [row.id for row in found] == [first.id, second.id]


def test_stores_are_changed_touched_and_expire(db: Database, tmp_path: Path) -> None:
    stores = VectorStores(db)
    made = stores.create(DEFAULT_PROJECT, NewStore("t", "d", {"k": "v"}, expires_days=2), MAKER)
    never = stores.create(DEFAULT_PROJECT, NewStore(), MAKER)
    assert (made.details, made.description, stores.expired()) == ({"k": "v"}, "d", [])

    stores.change(made.id, {"title": "新", "details": {}, "expires_days": 1})
    stores.change(made.id, {"last_active_at": int(time.time()) - 86_400})
    assert stores.expired() == []  # there is nothing in it
    file = add_file(Files(db, Blobs(tmp_path / "blobs")), b"x")
    StoreFiles(db).add(made.id, [Entry(file.id)])
    found = stores.find(made.id)
    assert found is not None
    assert (found.title, found.details, found.expires_days) == ("新", {}, 1)
    assert stores.expired() == [made.id]

    stores.touch(found)
    assert stores.expired() == []
    assert stores.delete(made.id) == 0
    assert stores.find(made.id) is None
    assert [row.id for row in stores.page(DEFAULT_PROJECT, Slice()).items] == [never.id]
