"""MODULE of the command line: what is found, and what a person is told if nothing is."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal_workers.commands.loading import load
from inngest_temporal_workers.commands.sources import ModuleError, Source, find

CLIENT = (
    "import inngest_temporal as inngest\nclient = inngest.Inngest(app_id='shop',"
    " is_production=False)\n"
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project in the current directory; what a test imports from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def write(file: str, text: str) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def function(name: str, fn_id: str | None = None, client: str = "client") -> str:
    return (
        f"@{client}.create_function(fn_id='{fn_id or name}',"
        f" trigger=inngest.TriggerEvent(event='e'))\nasync def {name}(ctx): pass\n"
    )


def ids(text: str) -> list[str]:
    return [each.id for each in load(find(text))]


def refusal(text: str) -> str:
    with pytest.raises(ModuleError) as raised:
        load(find(text))
    return str(raised.value)


def test_modules_that_still_import_the_official_sdk_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("pay.py", "from inngest import NonRetriableError\n")
    write("ship.py", "import inngest\n")
    write("mail.py", "import inngest_temporal as inngest\n")
    write("app.py", f"import mail, pay, ship\n{CLIENT}{function('fn')}")
    assert ids("app.py") == ["shop-fn"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" uses the official SDK")[0] for line in said] == [
        "Module pay",
        "Module ship",
    ]


def test_the_experimental_part_of_the_official_sdk_has_a_hint() -> None:
    write("app.py", "from inngest_temporal.experimental import mocked\n")
    assert "inngest_temporal.testing takes the place of experimental.mocked" in refusal("app.py")


# What is found.


def test_every_function_of_a_file_is_loaded_once_and_in_order() -> None:
    write("app.py", CLIENT + function("b") + function("a") + "again = a\nall = [a, b]\n")
    assert ids("app.py") == ["shop-b", "shop-a"]


def test_a_name_selects_one_function() -> None:
    write("app.py", CLIENT + function("a") + function("b"))
    assert ids("app.py:b") == ["shop-b"]


def test_a_name_selects_a_list_of_functions() -> None:
    write("app.py", CLIENT + function("a") + function("b") + function("c") + "functions = [c, a]\n")
    assert ids("app.py:functions") == ["shop-c", "shop-a"]


def test_functions_that_are_only_in_a_list_a_tuple_or_a_dict_are_found() -> None:
    parts = "".join(map(function, "abc"))
    keep = "kept = [a]\nmore = (b, a)\nby_name = {'c': c}\ndel a, b, c\n"
    write("app.py", CLIENT + parts + keep)
    assert ids("app.py") == ["shop-a", "shop-b", "shop-c"]
    assert ids("app.py:by_name") == ["shop-c"]


@pytest.mark.parametrize("package", ["adapter", "workers", "tests"])
@pytest.mark.parametrize("text", ["{}/orders.py", "{}.orders"])
def test_a_package_may_be_named_like_a_folder_of_ours(
    package: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    write(f"{package}/__init__.py", "")
    write(f"{package}/orders.py", CLIENT + function("a"))
    assert ids(text.format(package)) == ["shop-a"]


def test_a_file_can_import_what_is_beside_it() -> None:
    write("src/helper_of_app.py", CLIENT)
    write("src/app.py", "from helper_of_app import client, inngest\n" + function("a"))
    assert ids("src/app.py") == ["shop-a"]


def test_a_file_can_import_from_the_current_directory() -> None:
    write("shared_by_all.py", CLIENT)
    write("src/app.py", "from shared_by_all import client, inngest\n" + function("a"))
    assert ids("src/app.py") == ["shop-a"]


def test_a_file_of_a_package_can_use_relative_imports() -> None:
    write("src/shop_package/__init__.py", "")
    write("src/shop_package/base.py", CLIENT)
    write("src/shop_package/orders.py", "from .base import client, inngest\n" + function("a"))
    source = find("src/shop_package/orders.py")
    assert [each.id for each in load(source)] == ["shop-a"]
    assert source.directory == Path("src/shop_package").resolve()


def test_a_dotted_name_is_found_from_the_current_directory() -> None:
    write("shop_dotted/__init__.py", "")
    write("shop_dotted/orders.py", CLIENT + function("a"))
    source = find("shop_dotted.orders:a")
    assert [each.id for each in load(source)] == ["shop-a"]
    assert source.directory == Path("shop_dotted").resolve()


def test_a_file_named_like_a_module_in_use_does_not_replace_it() -> None:
    json = sys.modules["json"]
    write("json.py", CLIENT + function("a"))
    assert ids("json.py") == ["shop-a"]
    assert sys.modules["json"] is json


def test_finding_imports_nothing() -> None:
    path = write("app.py", "raise SystemError")
    assert find("app.py:name") == Source(
        "app.py:name", "app", "name", path.resolve(), path.resolve().parent
    )


# What a person is told.


@pytest.mark.parametrize("name", ["missing.py", "src", "src/app.txt"])
def test_a_path_that_is_not_a_python_file_is_named(name: str) -> None:
    write("src/app.txt", "")
    name = name if "." in name else f"./{name}"
    assert refusal(name).startswith(f"There is no Python file {str(Path(name))!r}")


@pytest.mark.parametrize("name", ["no_such_module_at_all", "no_such_module_at_all.orders"])
def test_a_missing_module_is_named(name: str) -> None:
    assert refusal(name).startswith(f"There is no module {name!r}")


def test_a_missing_module_of_a_package_is_named_with_its_file() -> None:
    write("shop_partial/__init__.py", "")
    message = refusal("shop_partial.orders")
    assert message.startswith("There is no module 'shop_partial.orders'")
    assert "shop_partial/orders.py" in message


def test_a_text_that_cannot_name_a_module_is_refused() -> None:
    assert "neither a module nor a file" in refusal("not-a-module")
    assert "can't be a name" in refusal("app.py:not-a-name")


def test_an_import_error_shows_the_users_traceback_and_nothing_of_ours() -> None:
    write("app.py", "def broken():\n    return 1 / 0\n\nbroken()\n")
    message = refusal("app.py")
    assert message.startswith("app.py can't be imported.")
    assert 'app.py", line 4, in <module>' in message
    assert "ZeroDivisionError: division by zero" in message
    assert "loading.py" not in message
    assert "importlib" not in message


def test_a_syntax_error_shows_the_line() -> None:
    write("app.py", CLIENT + "def broken(:\n")
    message = refusal("app.py")
    assert 'app.py", line 3' in message
    assert "SyntaxError" in message


def test_a_missing_dependency_of_the_module_is_its_own_error() -> None:
    write("shop_needy.py", "import no_such_dependency\n")
    for text in ("shop_needy", "shop_needy.py"):
        message = refusal(text)
        assert message.startswith(f"{text} can't be imported.")
        assert "ModuleNotFoundError: No module named 'no_such_dependency'" in message


def test_a_module_that_exits_is_an_error() -> None:
    write("app.py", "import sys\nsys.exit('not today')\n")
    assert "SystemExit: not today" in refusal("app.py")


def test_a_failed_import_can_be_repeated_once_it_is_corrected() -> None:
    write("app.py", "1 / 0")
    refusal("app.py")
    write("app.py", CLIENT + function("a"))
    assert ids("app.py") == ["shop-a"]


def test_a_missing_name_is_answered_with_those_that_are_there() -> None:
    write("app.py", CLIENT + function("a") + function("b"))
    assert refusal("app.py:c") == "app.py:c: the module has no 'c'. It has the functions a, b."


def test_a_name_must_be_of_a_function_or_a_list_of_them() -> None:
    write(
        "app.py", CLIENT + "async def plain(ctx): pass\nnumber = 3\nempty = []\nmixed = [plain]\n"
    )
    assert "Decorate a handler with client.create_function" in refusal("app.py:plain")
    assert "is not a function, nor a list of functions: it has 3" in refusal("app.py:number")
    assert "is empty" in refusal("app.py:empty")
    assert "it has <function plain" in refusal("app.py:mixed")


def test_a_module_without_functions_is_an_error() -> None:
    write("app.py", CLIENT)
    assert refusal("app.py").startswith("app.py has no functions. Decorate a handler")


def test_a_module_of_the_official_sdk_is_told_to_change_its_import() -> None:
    official = CLIENT.replace("import inngest_temporal as inngest", "import inngest")
    write("app.py", official + function("a"))
    assert "Change its import to `import inngest_temporal as inngest`" in refusal("app.py")
    assert "import inngest_temporal as inngest" in refusal("app.py:a")


def test_a_module_that_imports_a_part_of_the_official_sdk_after_ours_is_told_which_line() -> None:
    write("app.py", CLIENT.replace("client =", "import inngest.fast_api\nclient =") + function("a"))
    expected = "app.py, line 2: `import inngest.fast_api` makes `inngest` the official SDK again."
    assert refusal("app.py").startswith(expected)
    assert "Delete it, and `serve`" in refusal("app.py")


@pytest.mark.parametrize(
    "line",
    [
        "import inngest.no_such_part",
        "import inngest_temporal.fast_api",
        "from inngest_temporal import flask",
        "from inngest_temporal.connect import connect",
        "inngest.fast_api.serve(app, client, [])",
    ],
)
def test_a_part_of_the_official_sdk_that_does_not_exist_here_is_explained(line: str) -> None:
    write("app.py", f"{CLIENT}\n{line}\n")
    assert "That is a part of the official SDK. Delete it" in refusal("app.py")


def test_other_names_that_do_not_exist_are_not_taken_for_parts_of_the_official_sdk() -> None:
    write("app.py", f"{CLIENT}\nfrom inngest_temporal import no_such_name\n")
    assert "official SDK" not in refusal("app.py")


def test_two_functions_with_one_id_are_an_error() -> None:
    write("app.py", CLIENT + function("a") + function("b", fn_id="a"))
    with pytest.raises(FunctionConfigInvalidError, match='Two functions have the id "shop-a"'):
        ids("app.py")


def test_functions_of_two_apps_are_an_error_unless_one_is_named() -> None:
    other = "other = inngest.Inngest(app_id='post', is_production=False)\n"
    write("app.py", CLIENT + other + function("a") + function("b", client="other"))
    with pytest.raises(FunctionConfigInvalidError, match="several apps"):
        ids("app.py")
    assert ids("app.py:b") == ["post-b"]


def test_an_invalid_configuration_is_an_error() -> None:
    write("app.py", CLIENT + function("a").replace("fn_id", "retries=100, fn_id"))
    with pytest.raises(FunctionConfigInvalidError, match="retries"):
        ids("app.py")
