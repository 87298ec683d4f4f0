from objnet.core.variable import Buffer, Parameter
from objnet.nn.module import Module
