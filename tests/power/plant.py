"""A foreign Modbus server (pymodbus) whose every answered value can be recognised.

    plant.py PORT|TTY UNITS POINTS

Point k of a unit is the uint32 at holding registers 2k and 2k+1: unit in the top byte, k + 1
in the next, and in the low word a counter that grows with each read. Registers from 100 on
can be written and hold what was written.
"""

import asyncio
import sys

from pymodbus import FramerType
from pymodbus.datastore import ModbusServerContext
from pymodbus.datastore.context import ModbusBaseSlaveContext
from pymodbus.server import ModbusSerialServer, ModbusTcpServer

where, units, points = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


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
    if where.isdigit():
        server = ModbusTcpServer(context, address=("127.0.0.1", int(where)))
    else:
        # Another unit's request is none of this server's business: silence, no exception.
        server = ModbusSerialServer(context, framer=FramerType.RTU, port=where, baudrate=19200, ignore_missing_slaves=True)
    await server.serve_forever()


asyncio.run(main())
