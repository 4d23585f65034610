"""A stand-in for a meter on Modbus TCP, to try the example without one.

usage: standin.py [SERIAL-NUMBER]

Unit 1 on 127.0.0.1:5020: input registers 0 (voltage, float32) and 2 (energy, uint32), holding
register 100 (limit, tenths) and 200 to 203 (serial number), coil 0 (resets the energy).
"""

import asyncio
import random
import struct
import sys

from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncTcpServer

COIL, HOLDING, INPUT = 1, 3, 4  # tables, by the function that reads them


def words(layout, *values):
    data = struct.pack(">" + layout, *values)
    return list(struct.unpack(f">{len(data) // 2}H", data))


async def live(meter):
    energy = 0
    while True:
        energy = 0 if meter.getValues(COIL, 0, 1)[0] else energy + 1
        meter.setValues(COIL, 0, [False])
        meter.setValues(INPUT, 0, words("fI", round(random.uniform(228, 232), 1), energy))
        await asyncio.sleep(1)


async def main():
    meter = ModbusSlaveContext()
    meter.setValues(COIL, 0, [False])
    meter.setValues(HOLDING, 100, [200])
    serial = sys.argv[1] if len(sys.argv) > 1 else "SN-4711"
    meter.setValues(HOLDING, 200, words("8s", serial.encode()))
    task = asyncio.create_task(live(meter))
    await StartAsyncTcpServer(ModbusServerContext(slaves={1: meter}, single=False), address=("127.0.0.1", 5020))
    await task


asyncio.run(main())
