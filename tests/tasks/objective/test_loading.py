"""A user's file or module as an objective: what is found, what is refused, and its digest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hyperopt
import pytest

import search
from search.errors import InputError
from search.suggest.labels import LabelSpace
from search.tasks.objective.loading import load
from search.tasks.objective.source import code_digest

OBJECTIVE = """
from hyperopt import hp

search_space = {"x": hp.uniform("x", 0, 1)}


def objective(params):
    return params["x"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in; what a test imports from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    path, known = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(name: str, text: str = OBJECTIVE) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(reference: str, space: str | None = None, working_dir: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        load(reference, space, working_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestFound:
    def test_file_with_the_usual_names(self, folder: Path) -> None:
        write("titanic.py")
        loaded = load("titanic.py")
        assert loaded.function({"x": 0.5}) == 0.5
        assert LabelSpace(loaded.space).labels == ["x"]
        assert (loaded.name, loaded.refit) == ("titanic", None)
        assert loaded.source_file == folder / "titanic.py"
        assert loaded.working_dir == folder

    def test_file_with_names_of_its_own(self) -> None:
        """Function and space are named, a function `refit` beside it is taken."""
        text = OBJECTIVE.replace("objective", "score").replace("search_space", "grid")
        write("a b/my-file.py", text + "\ndef refit(params):\n    return 7\n")
        loaded = load("a b/my-file.py:score", "a b/my-file.py:grid")
        assert loaded.function({"x": 0.5}) == 0.5
        assert loaded.refit is not None
        assert loaded.refit({}) == 7
        assert loaded.name == "my-file"

    def test_module_in_the_working_folder(self, folder: Path) -> None:
        write("code/pack/__init__.py", "")
        write("code/pack/inner.py")
        loaded = load("pack.inner:objective", working_dir="code")
        assert loaded.name == "inner"
        assert loaded.working_dir == folder / "code"

    def test_space_in_another_file_or_module(self) -> None:
        """Also one that the objective imports; it is imported once."""
        write("spaces.py", OBJECTIVE + "\nprint('once')\n")
        write("fit.py", "from spaces import search_space as s\ndef objective(p): return 1\n")
        for space in ("spaces.py", "spaces:search_space"):
            assert LabelSpace(load("fit.py", space).space).labels == ["x"]

    def test_its_own_folder_is_importable(self) -> None:
        """From wherever the command is called."""
        write("deep/helper_of_deep.py", "value = 3\n")
        write("deep/uses.py", f"import helper_of_deep\n{OBJECTIVE}")
        assert load("deep/uses.py").name == "uses"

    def test_name_of_a_library_is_no_obstacle(self) -> None:
        """`random.py` and `search.py` are names that people give to files."""
        for name in ("random.py", "search.py", "hyperopt.py"):
            write(
                f"named/{name}",
                OBJECTIVE.replace("from hyperopt import hp", "hp = None").replace(
                    'hp.uniform("x", 0, 1)', "1"
                ),
            )
            assert load(f"named/{name}").function({"x": 0.5}) == 0.5
        assert sys.modules["hyperopt"] is hyperopt

    def test_guarded_part_does_not_run(self) -> None:
        write("guarded.py", OBJECTIVE + '\nif __name__ == "__main__":\n    raise SystemExit(3)\n')
        load("guarded.py")

    def test_space_without_hyperparameters_is_taken(self) -> None:
        write("constant.py", "search_space = {'x': 1}\ndef objective(p): return 1\n")
        assert load("constant.py").space == {"x": 1}

    def test_changed_file_is_read_again(self) -> None:
        write("again.py")
        load("again.py")
        write("again.py", OBJECTIVE.replace('params["x"]', "77"))
        assert load("again.py").function({}) == 77


class TestRefused:
    @pytest.mark.parametrize(
        ("reference", "text", "said"),
        [
            ("none.py", None, "no file none.py"),
            ("none_such:objective", None, "no module 'none_such'"),
            ("f.py", "def fit(p): ...\nx = 3\n", "functions found: fit; write f.py:NAME"),
            ("f.py:x", "x = 3\nsearch_space = 1", "'x' is no function but a value of type int"),
            ("f.py", "import math\n\n1 / 0\n", "f.py, line 3: ZeroDivisionError: division by"),
            ("f.py", "def f(:\n", "f.py, line 1: SyntaxError: invalid syntax"),
            ("f.py", "import none_such\n", "f.py, line 1: No module named 'none_such'; install"),
            ("f.py", "\nimport sys\nsys.exit(4)\n", "f.py, line 3: it ends Python while it is"),
            ("f.py", "def objective(p): ...\n", "no `search_space` beside it"),
            (
                "f.py",
                "from hyperopt import hp\ngrid = [hp.normal('a', 0, 1)]\ndef objective(p): ...\n",
                "--space FILE.py:NAME; found: grid",
            ),
            (
                "f.py",
                "def search_space(trial): ...\ndef objective(p): ...\n",
                "the search space is a value of type function; write it in hyperopt's terms",
            ),
        ],
    )
    def test_in_one_line_that_says_what_to_do(
        self, reference: str, text: str | None, said: str
    ) -> None:
        if text is not None:
            write("f.py", text)
        message = refusal(reference)
        assert message.startswith(f"--objective {reference}: ")
        assert said in message

    def test_error_in_what_the_file_imports(self) -> None:
        """The line is that of the user's file in which it happened."""
        write("broken_helper.py", "\n\nint('x')\n")
        write("f.py", "import broken_helper\n")
        assert "broken_helper.py, line 3: ValueError" in refusal("f.py")

    def test_space_of_another_name(self) -> None:
        write("f.py")
        assert "--space f.py:grid: no 'grid' in it; spaces found: search_space" in refusal(
            "f.py", "f.py:grid"
        )

    def test_working_folder_that_is_not_there(self) -> None:
        write("f.py")
        assert refusal("f.py", working_dir="gone") == "--working-dir gone: no such folder"


CALLS = {
    "function": "from hyperopt import fmin\nfmin(objective, search_space, max_evals=3)",
    "module": "from hyperopt.fmin import fmin\nfmin(objective, search_space, max_evals=3)",
    "method": "import hyperopt\nhyperopt.Trials().fmin(objective, search_space, max_evals=3)",
    "caught": (
        "import hyperopt\ntry:\n    hyperopt.fmin(objective, search_space, max_evals=3)\n"
        "except Exception:\n    pass"
    ),
}


class TestSearchAtImport:
    @pytest.mark.parametrize("call", CALLS)
    def test_is_refused(self, call: str) -> None:
        """A script without a guard is told what to do; no trial runs."""
        write("f.py", OBJECTIVE + f"\n{CALLS[call]}\n")
        message = refusal("f.py")
        assert message.startswith("--objective f.py: f.py, line 1")
        assert 'under `if __name__ == "__main__":`, or run the script itself with' in message

    def test_ours_is_refused_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search, "fmin", lambda *_, **__: 1, raising=False)
        write("f.py", f"from search import fmin\n{OBJECTIVE}\nfmin(objective, search_space)\n")
        assert "it begins a search while it is imported" in refusal("f.py")
        assert vars(search)["fmin"]() == 1

    def test_fmin_is_hyperopts_again_afterwards(self) -> None:
        """In hyperopt and in the script's own names."""
        before = (hyperopt.fmin, sys.modules["hyperopt.fmin"].fmin)
        write("f.py", f"from hyperopt import fmin\n{OBJECTIVE}")
        loaded = load("f.py")
        assert loaded.function.__globals__["fmin"] is before[0]
        assert (hyperopt.fmin, sys.modules["hyperopt.fmin"].fmin) == before


MLFLOW = """
import mlflow
from mlflow import set_tracking_uri

set_tracking_uri("http://192.0.2.1:5000")
chosen = mlflow.set_experiment("theirs").experiment_id
mlflow.set_registry_uri("sqlite:///registry.db")
"""


def test_choices_of_mlflow_are_noted_and_not_done(folder: Path) -> None:
    """No request, no file; the names are MLflow's own again afterwards."""
    write("f.py", MLFLOW + OBJECTIVE)
    code = (
        "import sys\n"
        "from search.tasks.objective.loading import load\n"
        "assert 'mlflow' not in sys.modules\n"
        "loaded = load('f.py')\n"
        "import mlflow\n"
        "assert loaded.function.__globals__['set_tracking_uri'] is mlflow.set_tracking_uri\n"
        "assert mlflow.set_tracking_uri.__module__.startswith('mlflow')\n"
        "print(sorted(loaded.mlflow.items()))\n"
        "assert '192.0.2.1' not in mlflow.get_tracking_uri()\n"
        "print(load('f.py').mlflow == loaded.mlflow)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env
    )
    assert ran.stdout.splitlines() == [
        "[('set_experiment', 'theirs'), ('set_registry_uri', 'sqlite:///registry.db'), "
        "('set_tracking_uri', 'http://192.0.2.1:5000')]",
        "True",
    ]
    assert [path.name for path in folder.glob("*.db")] == []


class TestDigest:
    def test_comments_blank_lines_and_the_place_do_not_matter(self) -> None:
        write("one/f.py", OBJECTIVE)
        write("two/f.py", "# a comment\n\n" + OBJECTIVE.replace("return", "# why\n\n    return"))
        assert load("one/f.py").digest == load("two/f.py").digest
        assert len(load("one/f.py").digest) == 32

    def test_code_matters(self) -> None:
        """Its own, that of modules it imports in any way, and which function it is."""
        helpers = {
            "one_helper.py": "import two_helper\n",
            "two_helper.py": "value = 1\n",
            "late.py": "value = 1\n",
            "bag/__init__.py": "from . import part\n",
            "bag/part.py": "from .other import value\n",
            "bag/other.py": "value = 1\n",
            "unused.py": "value = 1\n",
        }
        main = f"import one_helper, bag\n{OBJECTIVE}\n    import late\nother = objective\n"
        for name, text in {**helpers, "f.py": main}.items():
            write(name, text)
        function = load("f.py").function
        known = load("f.py").digest
        for changed in ("f.py", "two_helper.py", "late.py", "bag/other.py", "unused.py"):
            text = Path(changed).read_text()
            write(changed, text + "\nmore = 2\n")
            is_same = code_digest(function, Path.cwd(), Path("f.py").resolve()) == known
            assert is_same == (changed == "unused.py"), changed
            write(changed, text)
        assert load("f.py").digest == known

    def test_two_functions_of_a_file_differ(self) -> None:
        write("f.py", OBJECTIVE + "\ndef other(params):\n    return 1\n")
        assert load("f.py").digest != load("f.py:other").digest

    def test_script_itself_has_the_digest_of_its_file(self) -> None:
        """A search begun by `fmin` in a script can go on by the command."""
        text = OBJECTIVE + (
            '\nif __name__ == "__main__":\n'
            "    import pathlib\n"
            "    from search.tasks.objective.source import code_digest\n"
            "    print(code_digest(objective, pathlib.Path.cwd()))\n"
        )
        write("f.py", text)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ran = subprocess.run(
            [sys.executable, "f.py"], check=True, capture_output=True, text=True, env=env
        )
        assert ran.stdout.strip() == load("f.py").digest

    def test_interactive_function_is_known_by_its_byte_code(self) -> None:
        """Constants, names and inner functions count."""
        texts = ["return x + 1", "return x + 2", "return y + 1", "return (lambda: x + 3)()"]
        digests = set()
        for text in [*texts, texts[0]]:
            names: dict[str, object] = {"y": 1}
            exec(f"def f(x):\n    {text}\n", names)
            digests.add(code_digest(names["f"], Path.cwd()))
        assert len(digests) == len(texts)
