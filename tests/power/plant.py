"""A foreign Modbus server (pymodbus) whose every answered value can be recognised.

    plant.py PORT UNITS POINTS

Point k of a unit is the uint32 at holding registers 2k and 2k+1: unit in the top byte, k + 1
in the next, and in the low word a counter that grows with each read. Registers from 100 on
can be written and hold what was written.
"""

import asyncio
import sys

from pymodbus.datastore import ModbusServerContext
from pymodbus.datastore.context import ModbusBaseSlaveContext
from pymodbus.server import ModbusTcpServer

port, units, points = (int(a) for a in sys.argv[1:])


class Unit(ModbusBaseSlaveContext):
    def __init__(self, unit):
        self.unit, self.counters, self.memory = unit, [0] * points, [0] * 20

    def validate(self, _function, address, count=1):
        return address + count <= 2 * points or (100 <= address and address + count <= 120)

    def getValues(self, _function, address, count=1):
        if address >= 100:
            return self.memory[address - 100 : address - 100 + count]
        words = []
        for a in range(address, address + count):
            if a % 2 == 0:
                words.append(self.unit << 8 | (a // 2 + 1))
            else:
                self.counters[a // 2] += 1
                words.append(self.counters[a // 2] & 0xFFFF)
        return words

    def setValues(self, _function, address, values):
        self.memory[address - 100 : address - 100 + len(values)] = values


async def main():
    context = ModbusServerContext(slaves={u: Unit(u) for u in range(1, units + 1)}, single=False)
    await ModbusTcpServer(context, address=("127.0.0.1", port)).serve_forever()


asyncio.run(main())
