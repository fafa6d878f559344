import { eventType, Inngest, staticSchema } from "inngest";

export const inngest = new Inngest({ id: "shop" });

// The events, with the types of their data.
export const orderCreated = eventType("shop/order.created", {
  schema: staticSchema<{ orderId: string; userId: string }>(),
});
export const paymentReceived = eventType("shop/payment.received", {
  schema: staticSchema<{ orderId: string; amount: number }>(),
});
export const orderShipped = eventType("shop/order.shipped", {
  schema: staticSchema<{ orderId: string; tracking: string }>(),
});
export const orderCancelled = eventType("shop/order.cancelled", {
  schema: staticSchema<{ orderId: string }>(),
});
export const customerChanged = eventType("shop/customer.changed", {
  schema: staticSchema<{ customer: string; change: number }>(),
});
export const contactsUploaded = eventType("shop/contacts.uploaded", {
  schema: staticSchema<{ pages: number }>(),
});
export const chargeRequested = eventType("shop/charge.requested", {
  schema: staticSchema<{ orderId: string; card: string }>(),
});
export const itemSold = eventType("shop/item.sold", {
  schema: staticSchema<{ price: number }>(),
});
export const reportRequested = eventType("shop/report.requested", {
  schema: staticSchema<{ name: string; plan: "free" | "pro" }>(),
});

/** How long things take; the environment may say otherwise. */
export const durations = {
  coolingOff: process.env.COOLING_OFF ?? "1s",
  payment: process.env.PAYMENT_TIMEOUT ?? "30s",
  reminder: process.env.REMINDER_DELAY ?? "1d",
  pause: process.env.PAUSE ?? "1s",
};
