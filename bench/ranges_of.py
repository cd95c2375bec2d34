"""Where the tensors of a file lie whose names match, as JSON. Usage: ranges_of.py FILE PATTERN OUTPUT

A program of its own: what reads an index grows, and a child's peak memory is no lower than its parent's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from preheat.file_blob import FileBlob
from preheat.formats import read_index

file, pattern, output = sys.argv[1:]
index = read_index(FileBlob(Path(file)))
chosen = [tensor for name, tensor in index.tensors.items() if re.search(pattern, name)]
Path(output).write_text(json.dumps(sorted((tensor.start, tensor.start + tensor.size) for tensor in chosen)))
