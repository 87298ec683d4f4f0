"""Saving and loading: state dicts and training states (``save``, ``load``), and the safetensors files they go to."""

from __future__ import annotations

from objnet.io.atomic import atomic_write as atomic_write
from objnet.io.checkpoint import load as load
from objnet.io.checkpoint import save as save
from objnet.io.folder import FolderError as FolderError
from objnet.io.folder import WeightsFolder as WeightsFolder
from objnet.io.folder import open_folder as open_folder
from objnet.io.header import SafetensorError as SafetensorError
from objnet.io.header import TorchFileError as TorchFileError
from objnet.io.manager import CheckpointManager as CheckpointManager
from objnet.io.orbax_backend import restore_orbax as restore_orbax
from objnet.io.orbax_backend import save_orbax as save_orbax
from objnet.io.safetensors import SafetensorFile as SafetensorFile
from objnet.io.safetensors import load_file as load_file
from objnet.io.safetensors import open_file as open_file
from objnet.io.safetensors import read_header as read_header
from objnet.io.safetensors import save_file as save_file
from objnet.io.sharded import save_sharded as save_sharded
from objnet.io.torch_file import load_torch as load_torch
from objnet.io.torch_save import save_torch as save_torch
